"""What Ollama's clients ask for: ``/api/generate``, ``/api/chat``, ``/api/tags`` and the like."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mrnn_serve.answers import answering
from mrnn_serve.incoming import decoded, read_json, text
from mrnn_serve.limits import Refusal
from mrnn_serve.prompts import caption_all, follow, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from starlette.requests import Request

    from mrnn_runtime import Caption, Captioner
    from mrnn_serve.service import Service

# Of the API that is spoken here; clients compare it.
VERSION = "0.12.0"
_UNDATED = "1970-01-01T00:00:00Z"  # a bundle has no date, and clients want one


def routes() -> list[Route]:
    """Return the routes."""
    return [
        Route(path, answering(endpoint, _error), methods=[method])
        for path, endpoint, method in (
            ("/api/generate", _generate, "POST"),
            ("/api/chat", _chat, "POST"),
            ("/api/show", _show, "POST"),
            ("/api/tags", _tags, "GET"),
            ("/api/version", _version, "GET"),
        )
    ]


def _error(error: Refusal) -> dict[str, str]:
    return {"error": f"{error.message} ({error.hint})" if error.hint else error.message}


async def _generate(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = await read_json(request)
    captioner = service.captioner(text(asked, "model"))
    images = _images(asked)
    if not images and not asked.get("prompt"):  # how a client has a model loaded
        return JSONResponse({**_head(asked), "response": "", "done": True, "done_reason": "load"})
    return await _answer(
        request, captioner, asked, _prompt(asked.get("prompt")), images, _as_response
    )


async def _chat(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = await read_json(request)
    captioner = service.captioner(text(asked, "model"))
    messages = asked.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise Refusal(400, "messages must be a list of objects")
    if not messages:
        done = {"done": True, "done_reason": "load"}
        return JSONResponse({**_head(asked), "message": _as_message("")["message"], **done})
    # A conversation goes on about the photos that came last.
    last = next((one for one in reversed(messages) if one.get("images")), messages[-1])
    return await _answer(
        request, captioner, asked, _prompt(last.get("content")), _images(last), _as_message
    )


async def _answer(
    request: Request,
    captioner: Captioner,
    asked: dict[str, Any],
    prompt: str,
    images: Sequence[bytes],
    wording: Callable[[str], dict[str, object]],
) -> Response:
    if asked.get("format"):
        raise Refusal(400, "the answer is plain text", "leave out format")
    began = time.monotonic_ns()
    service: Service = request.app.state.service
    captions = await caption_all(service, request, images, follow(captioner, prompt))
    head = _head(asked)
    answer = wording("\n".join(caption.text for caption in captions))
    end = {"done": True, **_figures(captions, time.monotonic_ns() - began)}
    if asked.get("stream", True) is False:
        return JSONResponse({**head, **answer, **end})
    return StreamingResponse(
        _lines({**head, **answer, "done": False}, {**head, **wording(""), **end}),
        media_type="application/x-ndjson",
    )


def _as_response(caption: str) -> dict[str, object]:
    return {"response": caption}


def _as_message(caption: str) -> dict[str, object]:
    return {"message": {"role": "assistant", "content": caption}}


def _lines(*events: object) -> Iterator[str]:
    for event in events:
        yield json.dumps(event) + "\n"


def _images(holder: dict[str, Any]) -> list[bytes]:
    images = holder.get("images") or []
    if not isinstance(images, list):
        raise Refusal(400, "images must be a list")
    return [decoded(image) for image in images]


def _prompt(prompt: object) -> str:
    return prompt if isinstance(prompt, str) else ""


def _head(asked: dict[str, Any]) -> dict[str, object]:
    return {"model": text(asked, "model"), "created_at": datetime.now(UTC).isoformat()}


def _figures(captions: Sequence[Caption], nanoseconds: int) -> dict[str, object]:
    return {
        "done_reason": "stop" if all(caption.finished for caption in captions) else "length",
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": 0,
        "prompt_eval_duration": 0,
        "eval_count": words(captions),
        "eval_duration": nanoseconds,
    }


async def _tags(request: Request) -> Response:
    service: Service = request.app.state.service
    models = [
        {
            "name": f"{name}:latest",
            "model": f"{name}:latest",
            "modified_at": _UNDATED,
            "size": sum(file.bytes for file in captioner.bundle.files.values()),
            "digest": _digest(captioner),
            "details": _details(captioner),
        }
        for name, captioner in service.captioners.items()
    ]
    return JSONResponse({"models": models})


async def _show(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = await read_json(request)
    captioner = service.captioner(text(asked, "model") or text(asked, "name"))
    bundle = captioner.bundle
    return JSONResponse(
        {
            "license": bundle.licence,
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(captioner),
            "model_info": {
                "general.architecture": "mrnn",
                "general.name": bundle.name,
                "general.version": bundle.version,
                "mrnn.vocabulary_size": bundle.vocabulary_size,
            },
            "capabilities": ["completion", "vision"],
            "modified_at": _UNDATED,
        }
    )


def _details(captioner: Captioner) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "onnx",
        "family": "mrnn",
        "families": ["mrnn"],
        "parameter_size": "",
        "quantization_level": captioner.bundle.precision,
    }


def _digest(captioner: Captioner) -> str:
    """Return a SHA-256 that changes with any file of the bundle."""
    files = sorted((name, file.sha256) for name, file in captioner.bundle.files.items())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


async def _version(_: Request) -> Response:
    return JSONResponse({"version": VERSION})
