"""The page at ``/``, where the dist mrnn-web is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

_HOW = "mrnn serve: the API is described at /openapi.json; for a page here: pip install mrnn-web\n"
# The page loads nothing from elsewhere and sends nothing elsewhere; the browser sees to it.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def routes() -> list[Route]:
    """Return a route for each file of the page: no path of a client names a file."""
    folder = find_page()
    if folder is None:
        return [Route("/", _how, methods=["GET"])]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        _route("/", folder / "index.html"),
        *(_route(f"/{path.relative_to(folder).as_posix()}", path) for path in files),
    ]


def find_page() -> Path | None:
    """Return the folder of the page, or None where mrnn-web is not installed."""
    spec = find_spec("mrnn_web")
    return Path(spec.origin).parent / "page" if spec and spec.origin else None


def _route(url: str, file: Path) -> Route:
    async def send(_: Request) -> Response:
        return FileResponse(file, headers={"Content-Security-Policy": _POLICY})

    return Route(url, send, methods=["GET"])


async def _how(_: Request) -> Response:
    return PlainTextResponse(_HOW)
