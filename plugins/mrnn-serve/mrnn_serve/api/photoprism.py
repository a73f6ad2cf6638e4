"""PhotoPrism's own Vision API: ``/api/v1/vision/caption``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mrnn_serve.answers import answering
from mrnn_serve.incoming import decoded, read_json, text
from mrnn_serve.limits import Refusal
from mrnn_serve.prompts import caption_all, confidence, follow

if TYPE_CHECKING:
    from starlette.requests import Request

    from mrnn_serve.service import Service


def routes() -> list[Route]:
    """Return the routes; PhotoPrism's examples have the model and its version in the path."""
    endpoint = answering(_caption, _error)
    return [
        Route("/api/v1/vision/caption", endpoint, methods=["POST"]),
        Route("/api/v1/vision/caption/{model}", endpoint, methods=["POST"]),
        Route("/api/v1/vision/caption/{model}/{version}", endpoint, methods=["POST"]),
    ]


def _error(error: Refusal) -> dict[str, object]:
    return {"code": error.status, "error": error.message, "result": {}}


async def _caption(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = await read_json(request)
    captioner = service.captioner(request.path_params.get("model") or text(asked, "model"))
    images = asked.get("images") or []
    if asked.get("url") or not isinstance(images, list):
        raise Refusal(400, "links to photos are not followed", "FileScheme: data")
    work = follow(captioner, text(asked, "prompt"))
    # One answer is read: of several thumbnails of one photo, the first one decides.
    (caption,) = await caption_all(service, request, [decoded(one) for one in images[:1]], work)
    return JSONResponse(
        {
            "id": text(asked, "id"),
            "code": 200,
            "model": {
                "type": "caption",
                "name": captioner.bundle.name,
                "version": captioner.bundle.version,
            },
            "result": {
                "caption": {
                    "text": caption.text,
                    "source": "image",
                    "confidence": confidence(caption),
                }
            },
        }
    )
