"""Photos and options out of a request: multipart, the bytes of one photo, or JSON with base64."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from mrnn_serve.limits import Limits, Refusal
from mrnn_serve.works import Describe, Photo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from mrnn_runtime import Captioner, DecodeChanges

# Decoding options by name, and the most that one request may ask for: cost grows with them.
WHOLE = {
    "beam_size": 20,
    "n_best": 20,
    "min_length": 50,
    "max_length": 50,
    "no_repeat_ngram": 50,
    "top_k": 10**6,
    "seed": 2**63,
    "deadline_ms": 600_000,
}
REAL = frozenset({"length_penalty", "temperature", "top_p"})
TEXT = frozenset({"decoder", "reranker"})
OPTIONS = frozenset({*WHOLE, *REAL, *TEXT, "explain", "prefix", "banned_words"})
_WORDS = 100
_TEXT = 1000

_FIELDS = 200
_FIELD = 64 * 1024
# Of brackets and commas: [[],[],...] is 30 times as large when it is parsed. Base64 holds none.
_JSON_PARTS = 20_000
_SPACES = b" \t\n\v\f\r"
_NO_LINKS = "send the photo itself, as base64 or a data URL"


class _InMemory(MultiPartParser):
    """Starlette's parser, which writes what is larger than this to a temporary file."""

    spool_max_size = 2**62


async def read_photos(request: Request, limits: Limits) -> tuple[list[Photo], dict[str, Any]]:
    """Return the photos of a request and its other fields; those of the query come first.

    Multipart: every file is a photo, a field that is given twice is a list. JSON: ``image`` or
    ``images``, base64 or data URLs. Anything else that may be a photo is one.

    Raises:
        Refusal: the request cannot be read (400, 413), holds no photo (400), or is of another
            kind (415).
    """
    fields = _grouped(request.query_params.multi_items())
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        photos, more = await _multipart(request, limits)
        fields |= more
    elif kind == "application/json":
        fields |= await read_json(request)
        photos = [
            Photo(str(place), decoded(image)) for place, image in enumerate(_images(fields), 1)
        ]
    elif kind in ("", "application/octet-stream") or kind.startswith("image/"):
        data = await request.body()
        photos = [Photo("1", data)] if data else []
    else:
        raise Refusal(
            415, f"{kind[:100]!r} is not taken", "use image/*, multipart/form-data or JSON"
        )
    if not photos:
        raise Refusal(400, "the request holds no photo", "see /openapi.json")
    return photos, fields


def _images(fields: dict[str, Any]) -> list[object]:
    images = fields.pop("images", None)
    single = fields.pop("image", None)
    if images is None:
        return [] if single is None else [single]
    if single is not None or not isinstance(images, list):
        raise Refusal(400, "give image, one text, or images, a list of texts")
    return images


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object that is the body, whatever its media type says.

    Raises:
        Refusal: it is none; 400.
    """
    body = await request.body()
    if sum(map(body.count, (b"[", b"{", b","))) > _JSON_PARTS:
        raise Refusal(400, "the JSON has too many parts")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}"[:200]) from None
    if not isinstance(parsed, dict):
        raise Refusal(400, "the body must be a JSON object")
    return parsed


def decoded(image: object) -> bytes:
    """Return the bytes of base64 or of a data URL. No link is ever followed.

    Raises:
        Refusal: it is neither; 400.
    """
    if not isinstance(image, str):
        raise Refusal(400, "a photo must be a text", _NO_LINKS)
    if image.startswith("data:"):
        head, _, image = image.partition(",")
        if not head.lower().endswith(";base64"):
            raise Refusal(400, "the data URL of a photo must be of base64", _NO_LINKS)
    elif "://" in image[:20]:
        raise Refusal(400, "links to photos are not followed", _NO_LINKS)
    try:
        # Bytes: a text that is split into words takes 20 times as much.
        return base64.b64decode(image.encode("ascii").translate(None, _SPACES), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "the photo is no base64", _NO_LINKS) from None


async def _multipart(request: Request, limits: Limits) -> tuple[list[Photo], dict[str, Any]]:
    parser = _InMemory(
        Headers(scope=request.scope),
        request.stream(),
        max_files=limits.photos,
        max_fields=_FIELDS,
        max_part_size=_FIELD,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith("Too many") else 400
        raise Refusal(status, f"the form cannot be read: {error.message}") from None
    photos: list[Photo] = []
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            called = value.filename or str(len(photos) + 1)
            photos.append(Photo(called[:_TEXT], await value.read()))
            await value.close()
        else:
            fields.append((name, value))
    return photos, _grouped(fields)


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            before = fields[name]
            fields[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            fields[name] = value
    return fields


def describe(captioner: Captioner, fields: Mapping[str, Any]) -> Describe:
    """Return what is to be done with photos, from options by name; numbers may be texts.

    Raises:
        Refusal: an option is unknown, or asks for too much; 400.
        UsageError: a value is out of range, or a word is unknown.
    """
    if unknown := set(fields) - OPTIONS:
        raise Refusal(
            400, f"unknown option {sorted(unknown)[0][:100]!r}", f"use {', '.join(sorted(OPTIONS))}"
        )
    changes: DecodeChanges = {}
    for name, most in WHOLE.items():
        if (value := fields.get(name)) is not None:
            number = _number(name, value, int)
            if isinstance(number, int) and number > most:
                raise Refusal(400, f"{name} may be {most} at most")
            changes[name] = number  # type: ignore[literal-required]
    for name in REAL:
        if (value := fields.get(name)) is not None:
            changes[name] = _number(name, value, float)  # type: ignore[literal-required]
    if "prefix" in fields:
        changes["prefix"] = text(fields, "prefix")
    if "banned_words" in fields:
        changes["banned_words"] = _words(fields["banned_words"])
    return Describe(
        captioner,
        captioner.options(**changes),
        decoder=text(fields, "decoder") or None,
        reranker=text(fields, "reranker") or None,
        explain=_flag(fields.get("explain", False)),
    )


def text(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that is a text, or an empty one where it is missing.

    Raises:
        Refusal: it is no text, or a long one; 400.
    """
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _TEXT:
        raise Refusal(400, f"{name} must be one text of at most {_TEXT} characters")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # JSON can hold halves of letters
        raise Refusal(400, f"{name} is no text in Unicode")
    return value


def texts(fields: Mapping[str, Any], name: str, most: int) -> list[str]:
    """Return a field that is a list of texts, or one of them.

    Raises:
        Refusal: it is neither, or there are too many; 400.
    """
    values = fields.get(name, [])
    values = values if isinstance(values, list) else [values]
    if len(values) > most:
        raise Refusal(400, f"{name}: {most} at most")
    return [text({name: value}, name) for value in values]


def _words(value: object) -> list[str]:
    words = [word for part in texts({"it": value}, "it", _WORDS) for word in part.split(",")]
    return [word.strip() for word in words if word.strip()][:_WORDS]


def _number(name: str, value: object, kind: type[int] | type[float]) -> object:
    if not isinstance(value, str):
        return value  # DecodeOptions refuses what is no number
    try:
        return kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise Refusal(400, f"{name} must be {what}, not {value[:50]!r}") from None


def _flag(value: object) -> bool:
    flags = {"true": True, "1": True, "false": False, "0": False}
    flag = value if isinstance(value, bool) else flags.get(str(value).lower())
    if flag is None:
        raise Refusal(400, "explain must be true or false")
    return flag
