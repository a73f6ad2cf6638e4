"""What OpenAI's clients ask for: ``/v1/chat/completions``, ``/v1/responses`` and ``/v1/models``."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mrnn_serve.answers import answering
from mrnn_serve.incoming import decoded, read_json, text
from mrnn_serve.limits import Refusal
from mrnn_serve.prompts import caption_all, follow, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.requests import Request

    from mrnn_runtime import Caption
    from mrnn_serve.service import Service

_MOST_CHOICES = 20


def routes() -> list[Route]:
    """Return the routes."""
    return [
        Route(path, answering(endpoint, _error), methods=[method])
        for path, endpoint, method in (
            ("/v1/chat/completions", _chat, "POST"),
            ("/v1/responses", _responses, "POST"),
            ("/v1/models", _models, "GET"),
            ("/v1/models/{name}", _model, "GET"),
        )
    ]


def _error(error: Refusal) -> dict[str, object]:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def _chat(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = await read_json(request)
    captioner = service.captioner(text(asked, "model"))
    prompt, images = _last_message(asked.get("messages"), "text", "image_url")
    choices = asked.get("n") or 1
    if not isinstance(choices, int) or not 1 <= choices <= _MOST_CHOICES:
        raise Refusal(400, f"n must be a whole number of 1..{_MOST_CHOICES}")
    _expect_text(asked.get("response_format"))
    captions = await caption_all(
        service, request, images, follow(captioner, prompt, n_best=choices)
    )
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": text(asked, "model") or captioner.bundle.name,
    }
    reason = "stop" if all(caption.finished for caption in captions) else "length"
    texts = _choices(captions)
    if asked.get("stream"):
        events = _chunks(head, texts, reason)
        return StreamingResponse(_sse(events, end="[DONE]"), media_type="text/event-stream")
    return JSONResponse(
        {
            **head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": place,
                    "message": {"role": "assistant", "content": said, "refusal": None},
                    "logprobs": None,
                    "finish_reason": reason,
                }
                for place, said in enumerate(texts)
            ],
            "usage": {
                "prompt_tokens": 0,
                "completion_tokens": words(captions),
                "total_tokens": words(captions),
            },
        }
    )


def _choices(captions: Sequence[Caption]) -> list[str]:
    """Return the answers, the best first: a line an image, as many as the poorest image has."""
    rows = zip(*(caption.candidates for caption in captions), strict=False)
    return ["\n".join(candidate.caption for candidate in row) for row in rows]


def _chunks(head: dict[str, Any], texts: Sequence[str], reason: str) -> Iterator[dict[str, object]]:
    for place, said in enumerate(texts):
        for delta, finish in (({"role": "assistant", "content": said}, None), ({}, reason)):
            choice = {"index": place, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield {**head, "object": "chat.completion.chunk", "choices": [choice]}


async def _responses(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = await read_json(request)
    captioner = service.captioner(text(asked, "model"))
    prompt, images = _last_message(asked.get("input"), "input_text", "input_image")
    wanted = asked.get("text")
    _expect_text(wanted.get("format") if isinstance(wanted, dict) else None)
    captions = await caption_all(service, request, images, follow(captioner, prompt))
    response = _response(
        text(asked, "model") or captioner.bundle.name,
        "\n".join(caption.text for caption in captions),
        words(captions),
    )
    if asked.get("stream"):
        return StreamingResponse(_sse(_events(response)), media_type="text/event-stream")
    return JSONResponse(response)


def _response(model: str, said: str, tokens: int) -> dict[str, Any]:
    content = {"type": "output_text", "text": said, "annotations": [], "logprobs": []}
    message = {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [message],
        "parallel_tool_calls": False,
        "temperature": None,
        "tool_choice": "none",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        },
    }


def _events(response: dict[str, Any]) -> Iterator[dict[str, object]]:
    (message,) = response["output"]
    (content,) = message["content"]
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    events: tuple[tuple[str, dict[str, object]], ...] = (
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        (
            "response.output_item.added",
            {"output_index": 0, "item": {**message, "status": "in_progress", "content": []}},
        ),
        ("response.content_part.added", {**place, "part": {**content, "text": ""}}),
        ("response.output_text.delta", {**place, "delta": content["text"], "logprobs": []}),
        ("response.output_text.done", {**place, "text": content["text"], "logprobs": []}),
        ("response.content_part.done", {**place, "part": content}),
        ("response.output_item.done", {"output_index": 0, "item": message}),
        ("response.completed", {"response": response}),
    )
    for number, (kind, fields) in enumerate(events):
        yield {"type": kind, "sequence_number": number, **fields}


def _sse(events: Iterator[dict[str, object]], *, end: str = "") -> Iterator[str]:
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        yield f"{name}data: {json.dumps(event)}\n\n"
    if end:
        yield f"data: {end}\n\n"


def _last_message(messages: object, text_kind: str, image_kind: str) -> tuple[str, list[bytes]]:
    """Return the text and the images of the last message with images: the talk is about them.

    Raises:
        Refusal: the messages are of another form; 400.
    """
    prompt, images = "", []
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        listed = content if isinstance(content, list) else []  # a plain text has no image
        parts = [part for part in listed if isinstance(part, dict)]
        of_message = [_image(part) for part in parts if part.get("type") == image_kind]
        if of_message:
            images = of_message
            said = (part.get("text") for part in parts if part.get("type") == text_kind)
            prompt = " ".join(one for one in said if isinstance(one, str))
    return prompt, images


def _image(part: dict[str, Any]) -> bytes:
    """Return an image: ``image_url`` is a data URL, or holds one as ``url``."""
    url = part.get("image_url")
    return decoded(url.get("url") if isinstance(url, dict) else url)


def _expect_text(wanted: object) -> None:
    """Refuse structured output."""
    if isinstance(wanted, dict) and wanted.get("type", "text") != "text":
        raise Refusal(400, "the answer is plain text", "leave out the response format")


async def _models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_listed(name) for name in service.captioners]})


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse(_listed(service.captioner(request.path_params["name"]).bundle.name))


def _listed(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "mrnn-runtime"}
