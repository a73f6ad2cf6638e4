"""LibrePhotos' captioning service: ``/generate-caption`` names a photo by its path."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mrnn_serve.answers import answering
from mrnn_serve.incoming import read_json, text
from mrnn_serve.limits import Refusal
from mrnn_serve.prompts import caption_all, follow

if TYPE_CHECKING:
    from starlette.requests import Request

    from mrnn_serve.service import Service


def routes() -> list[Route]:
    """Return the routes."""
    return [Route("/generate-caption", answering(_generate), methods=["POST"])]


async def _generate(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.photos_folder is None:
        raise Refusal(404, "this server reads no photos by path", "mrnn serve --photos-folder DIR")
    asked = await read_json(request)
    captioner = service.captioner(None)
    work = follow(captioner, text(asked, "prompt"))
    data = await asyncio.to_thread(
        read_below, service.photos_folder, text(asked, "image_path"), service.limits.body
    )
    (caption,) = await caption_all(service, request, [data], work)
    return JSONResponse({"caption": caption.text}, 201)


def read_below(folder: Path, path: str, most: int) -> bytes:
    """Return the bytes of a file below a folder.

    Each part of the path is opened in the one before it and no link is followed, so that nothing
    that is changed meanwhile leads out of the folder.

    Args:
        folder: absolute.
        path: absolute and below the folder, or relative to it.
        most: bytes that are read, at most.

    Raises:
        Refusal: it is not below the folder (403), no file that can be read (404), or larger than
            ``most`` (413). Whether something exists elsewhere is not told.
    """
    named = PurePosixPath(path)
    outside = Refusal(403, "the path does not lie below the folder of the photos")
    if named.is_absolute():
        if not named.is_relative_to(folder):
            raise outside
        named = named.relative_to(folder)
    if not named.parts or ".." in named.parts or "\0" in path:
        raise outside
    missing = Refusal(404, "there is no such photo", "links are not followed")
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for place, part in enumerate(named.parts, 1):
            kind = os.O_NONBLOCK if place == len(named.parts) else os.O_DIRECTORY
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=opened)
            os.close(opened)
            opened = inner
        facts = os.fstat(opened)
        if not stat.S_ISREG(facts.st_mode):
            raise missing
        if facts.st_size > most:
            raise Refusal(413, "the photo is too large", f"at most {most} bytes")
        with os.fdopen(os.dup(opened), "rb") as file:
            return file.read(most)
    except (OSError, ValueError):  # a name may be none that the system knows how to write
        raise missing from None
    finally:
        os.close(opened)
