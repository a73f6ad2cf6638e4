"""The application: all APIs, behind the guard, inside of what observes them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mrnn_serve import page
from mrnn_serve.answers import refuse
from mrnn_serve.api import librephotos, native, ollama, openai, photoprism
from mrnn_serve.guard import Guard
from mrnn_serve.limits import Refusal
from mrnn_serve.observe import Observe
from mrnn_serve.openapi import document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.requests import Request

    from mrnn_serve.observe import LogLine
    from mrnn_serve.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        api_key: what a client must bring, or None.
        loopback_only: whether the server listens to this machine only.
        cors_origins: of whose web pages the scripts may read answers.
    """

    api_key: str | None = None
    loopback_only: bool = True
    cors_origins: Sequence[str] = ()


def make_app(service: Service, access: Access, log: LogLine) -> Starlette:
    """Return the application; its lifespan starts the service and finishes what it accepted."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with service:
            yield

    routes = [
        Route("/healthz", _health, methods=["GET"]),
        Route("/readyz", _ready, methods=["GET"]),
        Route("/metrics", _metrics, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        *native.routes(),
        *ollama.routes(),
        *openai.routes(),
        *photoprism.routes(),
        *librephotos.routes(),
        *page.routes(),
    ]
    service.metrics.watch(lambda: service.waiting)
    observe = Middleware(
        Observe,
        metrics=service.metrics,
        log=log,
        paths=frozenset(route.path for route in routes),
    )
    cors = Middleware(
        CORSMiddleware,
        allow_origins=access.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type"],
    )
    guard = Middleware(
        Guard,
        limits=service.limits,
        photos=service.photos,
        api_key=access.api_key,
        loopback_only=access.loopback_only,
    )
    app = Starlette(
        routes=routes,
        # A preflight brings no key: CORS answers it before the guard asks for one.
        middleware=[observe, *([cors] if access.cors_origins else []), guard],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.photos.is_spent:
        return refuse(Refusal(503, "the server is busy"))
    return PlainTextResponse("ready\n")


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _openapi(_: Request) -> Response:
    return JSONResponse(document())


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer 404 and 405 as everything else is."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    response = refuse(Refusal(status, HTTPStatus(status).phrase.lower()))
    response.headers.update(getattr(error, "headers", None) or {})
    return response
