"""What is written beside a photo: ``photo.jpg.txt``, ``photo.jpg.json`` or ``photo.jpg.xmp``."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.bundle.atomic import replace_file
from mrnn_runtime.errors import ImageError

if TYPE_CHECKING:
    from mrnn_runtime.types import Caption


class Sidecar(StrEnum):
    """What is written beside each image."""

    TXT = "txt"
    JSON = "json"
    XMP = "xmp"


def is_captioned(path: Path, kind: Sidecar) -> bool:
    """Say whether the file beside a photo is there; of XMP, whether it has a caption."""
    if kind is not Sidecar.XMP:
        return os.path.exists(beside(str(path), kind))
    from mrnn_runtime.cli.xmp import caption_of

    try:
        content = _read_xmp(str(path))
        return bool(content and caption_of(content))
    except (OSError, ValueError):  # writing it will say why
        return False


def write_sidecar(result: Caption, kind: Sidecar, *, overwrite: bool = False) -> bool:
    """Write the file beside a photo.

    An XMP file that is there keeps all that it says, its caption as well.

    Args:
        result: a caption, and the photo's path.
        kind: of file.
        overwrite: whether to replace the caption of an XMP file.

    Returns:
        Whether the caption is written; False where an XMP file keeps its own.

    Raises:
        ImageError: the file cannot be written, or is no XMP.
    """
    target = beside(result.path, kind)
    try:
        if kind is Sidecar.XMP:
            content = _xmp(result, overwrite=overwrite)
            if content is None:
                return False
        else:
            text = json.dumps(result.record()) if kind is Sidecar.JSON else result.text
            content = f"{text}\n".encode("utf-8", "surrogateescape")
        replace_file(target, content)
    except OSError as error:
        raise ImageError(
            f"{target} cannot be written: {error.strerror}", hint="check the folder's permissions"
        ) from error
    except ValueError as error:
        raise ImageError(
            f"{target} cannot be written: {error}", hint="save the file anew, or move it away"
        ) from error
    return True


def beside(path: str | Path, kind: Sidecar) -> Path:
    """Return where the file beside a photo is written."""
    return Path(f"{path}.{kind.value}")


def _xmp(result: Caption, *, overwrite: bool) -> bytes | None:
    from mrnn_runtime.cli.xmp import caption_of, with_caption

    before = _read_xmp(result.path)
    if before and not overwrite and caption_of(before):
        return None
    return with_caption(before, result.text)


def _read_xmp(path: str) -> bytes:
    """Return what ``photo.jpg.xmp`` holds, else ``photo.xmp``, as other programs name it."""
    from mrnn_runtime.cli.xmp import MOST_BYTES

    for place in (beside(path, Sidecar.XMP), Path(path).with_suffix(".xmp")):
        try:
            if place.exists() and not place.is_file():
                raise ValueError(f"{place} is no file")  # a pipe would be waited for
            with place.open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            continue
    return b""
