"""``/v1/caption``, ``/v1/search`` and ``/v1/rank``: all that the command line can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mrnn_serve.answers import answering
from mrnn_serve.incoming import describe, read_photos, text, texts
from mrnn_serve.limits import Refusal
from mrnn_serve.works import Find, Photo, Rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from mrnn_runtime import Caption, ImageError, Match
    from mrnn_serve.service import Service

_SENTENCES = 100
# Of all sentences together. Each costs a pass over the background photos, some 15 ms with the model
# everyday, and a thread that has begun does not stop when the time for an answer is over.
_WORDS = 1000


def routes() -> list[Route]:
    """Return the routes."""
    return [
        Route("/v1/caption", answering(_caption), methods=["POST"]),
        Route("/v1/search", answering(_search), methods=["POST"]),
        Route("/v1/rank", answering(_rank), methods=["POST"]),
    ]


async def _caption(request: Request) -> Response:
    service: Service = request.app.state.service
    photos, fields = await read_photos(request, service.limits)
    captioner = service.captioner(text(fields, "model"))
    fields.pop("model", None)
    captions = await service.describe(request, photos, describe(captioner, fields))
    readable = any(caption.error is None for caption in captions)
    return JSONResponse({"results": [record(one) for one in captions]}, 200 if readable else 422)


async def _search(request: Request) -> Response:
    service: Service = request.app.state.service
    photos, fields = await read_photos(request, service.limits)
    _expect(fields, "model", "sentence")
    sentence = text(fields, "sentence")
    if not sentence.strip():
        raise Refusal(400, "the field sentence is missing", "say what to look for")
    captioner = service.captioner(text(fields, "model"))
    work = Find(captioner, sentence)
    matches, errors = await service.match(request, photos, captioner, work)
    ranked = [_match(photos, match, rank) for rank, match in enumerate(matches, 1)]
    return JSONResponse({"results": [*ranked, *_unreadable(photos, errors)]})


async def _rank(request: Request) -> Response:
    service: Service = request.app.state.service
    photos, fields = await read_photos(request, service.limits)
    _expect(fields, "model", "sentences")
    sentences = tuple(one for one in texts(fields, "sentences", _SENTENCES) if one.strip())
    if not sentences:
        raise Refusal(400, "the field sentences is missing", "give one or several")
    captioner = service.captioner(text(fields, "model"))
    if sum(len(captioner.vocabulary.encode(one)) for one in sentences) > _WORDS:
        raise Refusal(400, f"sentences: {_WORDS} words at most in all", "ask several times")
    work = Rank(captioner, sentences)
    rows, errors = await service.match(request, photos, captioner, work)
    ranked = [_match(photos, match, rank) for row in rows for rank, match in enumerate(row, 1)]
    return JSONResponse({"results": [*ranked, *_unreadable(photos, errors)]})


def _expect(fields: dict[str, Any], *names: str) -> None:
    if unknown := set(fields) - set(names):
        raise Refusal(400, f"unknown field {sorted(unknown)[0][:100]!r}", f"use {', '.join(names)}")


def record(caption: Caption) -> dict[str, object]:
    """Return a caption as a line of ``mrnn caption --format jsonl`` holds it, the hint apart."""
    if caption.error is not None:
        return {"path": caption.path, **_error(caption.error)}
    return caption.record()


def _match(photos: Sequence[Photo], match: Match, rank: int) -> dict[str, object]:
    place = int(match.path.name)
    return {
        "path": photos[place].name,
        "index": place,
        "sentence": match.sentence,
        "rank": rank,
        "log_prob": match.log_prob,
        "score": match.score,
    }


def _unreadable(
    photos: Sequence[Photo], errors: Sequence[ImageError | None]
) -> list[dict[str, object]]:
    return [
        {"path": photo.name, "index": place, **_error(error)}
        for place, (photo, error) in enumerate(zip(photos, errors, strict=True))
        if error is not None
    ]


def _error(error: ImageError) -> dict[str, object]:
    return {"error": error.message, "hint": error.hint}
