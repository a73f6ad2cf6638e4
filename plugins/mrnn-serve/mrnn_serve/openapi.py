"""What ``/openapi.json`` says: the contract that tests hold the server to."""

from __future__ import annotations

from typing import Any

from mrnn_runtime import __version__
from mrnn_serve.incoming import REAL, WHOLE

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer"}
_ANYTHING: Schema = {"type": "object"}
_IMAGE: Schema = {"type": "string", "description": "Base64, or a data URL. No link is followed."}
_FILE: Schema = {"type": "string", "format": "binary"}
# An option that is not given is the bundle's.
_LEAST = {"no_repeat_ngram": 0, "top_k": 0, "seed": 0, "deadline_ms": 0}
_RANGE = {"length_penalty": (0, 10), "temperature": (0.01, 100), "top_p": (1e-6, 1)}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _options() -> dict[str, Schema]:
    whole = {
        name: {"type": "integer", "minimum": _LEAST.get(name, 1), "maximum": most}
        for name, most in WHOLE.items()
    }
    real = {
        name: {"type": "number", "minimum": _RANGE[name][0], "maximum": _RANGE[name][1]}
        for name in sorted(REAL)
    }
    return {
        "model": {"type": "string", "description": "One of /v1/models; else the first."},
        "decoder": {"type": "string", "description": "For example beam, greedy or sample."},
        "reranker": {"type": "string", "description": "For example consensus-cider, or none."},
        "explain": {"type": "boolean", "description": "Whether to tell the neighbours that voted."},
        **whole,
        **real,
        "prefix": {"type": "string", "description": "What the caption starts with."},
        "banned_words": {"type": "array", "items": _TEXT, "maxItems": 100},
    }


def _photos(fields: dict[str, Schema], required: list[str]) -> Schema:
    """Return the request body of an endpoint that takes photos in three ways."""
    several = {"images": _list(_IMAGE), "image": _IMAGE}
    form = {"photo": {"type": "array", "items": _FILE, "description": "Any name will do."}}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _object(["photo", *required], **form, **fields)},
            "application/json": {"schema": _object(required, **several, **fields)},
            "image/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
        },
    }


def _json(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(description: str, schema: Schema, *also: str) -> Schema:
    content = {kind: {"schema": _TEXT} for kind in also}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema}, **content},
    }


_REFUSALS = {
    400: "The request cannot be understood.",
    401: "The API key is missing or wrong.",
    403: "The Host header, or a path, is not allowed.",
    404: "There is no such model or photo.",
    408: "The request took too long to arrive.",
    413: "The body or the number of photos is too large.",
    415: "The media type is not taken.",
    422: "The photo cannot be read.",
    503: "The server is busy; Retry-After says when to come again.",
}


def _post(summary: str, body: Schema, answer: Schema, *, error: str, status: int = 200) -> Schema:
    refusals = {str(code): _answer(text, _ref(error)) for code, text in _REFUSALS.items()}
    if error == "Error":  # of photos of which none can be read, each says why
        either = {"anyOf": [_ref("Error"), _ref("Results")]}
        refusals["422"] = _answer(_REFUSALS[422], either)
    return {
        "post": {
            "summary": summary,
            "requestBody": body,
            "responses": {str(status): answer, **refusals},
        }
    }


def _get(summary: str, answer: Schema, **more: Schema) -> Schema:
    refusals = {str(code): _answer(_REFUSALS[code], _ANYTHING) for code in (401, 403, 415, 503)}
    return {"get": {"summary": summary, "responses": {"200": answer, **refusals, **more}}}


def _plain(description: str) -> Schema:
    return {"description": description, "content": {"text/plain": {"schema": _TEXT}}}


def document() -> Schema:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mrnn serve",
            "version": __version__,
            "summary": "Captions of photos",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"key": []}],
        "paths": {
            **_native(),
            **_ollama(),
            **_openai(),
            **_applications(),
            "/healthz": _get("Whether the process lives", _plain("It does.")),
            "/readyz": _get("Whether there is room for a photo", _plain("There is.")),
            "/metrics": _get("Figures for Prometheus", _plain("Its text format.")),
            "/openapi.json": _get("This document", _answer("It.", _ANYTHING)),
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _native() -> dict[str, Schema]:
    search = {"model": _TEXT, "sentence": {"type": "string", "maxLength": 1000}}
    rank = {"model": _TEXT, "sentences": {"type": "array", "items": _TEXT, "maxItems": 100}}
    results = _answer("A record a photo.", _ref("Results"))
    matches = _answer("The best first; then the photos that cannot be read.", _ref("Matches"))
    return {
        "/v1/caption": _post("Caption photos", _photos(_options(), []), results, error="Error"),
        "/v1/search": _post(
            "Rank photos for a sentence", _photos(search, ["sentence"]), matches, error="Error"
        ),
        "/v1/rank": _post(
            "Rank sentences for photos", _photos(rank, ["sentences"]), matches, error="Error"
        ),
    }


def _ollama() -> dict[str, Schema]:
    stream = {"type": "boolean", "default": True}
    generate = _object(["model"], model=_TEXT, prompt=_TEXT, images=_list(_IMAGE), stream=stream)
    message = _object(["role"], role=_TEXT, content=_TEXT, images=_list(_IMAGE))
    chat = _object(["model"], model=_TEXT, messages=_list(message), stream=stream)
    lines = "application/x-ndjson"
    return {
        "/api/generate": _post(
            "Caption, as Ollama",
            _json(generate),
            _answer("A caption, or events of one.", _object(["done"]), lines),
            error="OllamaError",
        ),
        "/api/chat": _post(
            "Caption the last photos of a talk, as Ollama",
            _json(chat),
            _answer("A message, or events of one.", _object(["done"]), lines),
            error="OllamaError",
        ),
        "/api/show": _post(
            "A model, as Ollama tells it",
            _json(_object([], model=_TEXT)),
            _answer("Its facts.", _object(["details"])),
            error="OllamaError",
        ),
        "/api/tags": _get(
            "The models, as Ollama lists them", _answer("They.", _object(["models"]))
        ),
        "/api/version": _get("Of Ollama's API", _answer("It.", _object(["version"]))),
    }


def _openai() -> dict[str, Schema]:
    message = _object(["role"], role=_TEXT)
    chat = _object(
        ["messages"], model=_TEXT, messages=_list(message), stream={"type": "boolean"}, n=_WHOLE
    )
    responses = _object(["input"], model=_TEXT, input={}, stream={"type": "boolean"})
    events = "text/event-stream"
    model = _get("A model, as OpenAI tells it", _answer("It.", _object(["id"])))
    model["get"]["responses"]["404"] = _answer(_REFUSALS[404], _ref("OpenAIError"))
    model["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]
    return {
        "/v1/chat/completions": _post(
            "Caption, as OpenAI's chat",
            _json(chat),
            _answer("A completion, or events of one.", _object(["choices"]), events),
            error="OpenAIError",
        ),
        "/v1/responses": _post(
            "Caption, as OpenAI's responses",
            _json(responses),
            _answer("A response, or events of one.", _object(["output"]), events),
            error="OpenAIError",
        ),
        "/v1/models": _get("The models, as OpenAI lists them", _answer("They.", _object(["data"]))),
        "/v1/models/{name}": model,
    }


def _applications() -> dict[str, Schema]:
    vision = _object(
        ["images"], id=_TEXT, model=_TEXT, version=_TEXT, prompt=_TEXT, images=_list(_IMAGE)
    )
    result = _object(["caption"], caption=_ref("VisionCaption"))
    caption = _post(
        "Caption, as PhotoPrism",
        _json(vision),
        _answer("A caption.", _object(["id", "code", "model", "result"], result=result)),
        error="VisionError",
    )
    by_path = _object(["image_path"], image_path=_TEXT, prompt=_TEXT)
    return {
        "/api/v1/vision/caption": caption,
        "/generate-caption": _post(
            "Caption a photo below --photos-folder, as LibrePhotos",
            _json(by_path),
            _answer("A caption.", _object(["caption"], caption=_TEXT)),
            error="Error",
            status=201,
        ),
    }


def _schemas() -> dict[str, Schema]:
    candidate = _object(["caption", "log_prob"], caption=_TEXT, log_prob=_NUMBER)
    neighbour = _object(["image", "distance"], image=_TEXT, distance=_NUMBER)
    return {
        "Error": _object(["error"], error=_TEXT, hint=_TEXT),
        "OllamaError": _object(["error"], error=_TEXT),
        "OpenAIError": _object(
            ["error"], error=_object(["message", "type"], message=_TEXT, type=_TEXT)
        ),
        "VisionError": _object(["code", "error"], code=_WHOLE, error=_TEXT),
        "VisionCaption": _object(
            ["text", "source", "confidence"],
            text=_TEXT,
            source=_TEXT,
            confidence={"type": "number", "minimum": 0, "maximum": 1},
        ),
        "Unreadable": _object(["path", "error"], path=_TEXT, error=_TEXT, hint=_TEXT),
        "Caption": _object(
            ["path", "caption", "log_prob", "finished", "candidates", "model", "provider"],
            path=_TEXT,
            caption={"type": ["string", "null"]},
            confidence={"type": ["number", "null"]},
            log_prob=_NUMBER,
            finished={"type": "boolean"},
            candidates=_list(candidate),
            model=_TEXT,
            provider=_TEXT,
            decoder=_TEXT,
            reranker={"type": ["string", "null"]},
            neighbours=_list(neighbour),
        ),
        "Match": _object(
            ["path", "index", "sentence", "rank", "log_prob", "score"],
            path=_TEXT,
            index=_WHOLE,
            sentence=_TEXT,
            rank=_WHOLE,
            log_prob=_NUMBER,
            score=_NUMBER,
        ),
        "Results": _object(
            ["results"], results=_list({"anyOf": [_ref("Caption"), _ref("Unreadable")]})
        ),
        "Matches": _object(
            ["results"], results=_list({"anyOf": [_ref("Match"), _ref("Unreadable")]})
        ),
    }
