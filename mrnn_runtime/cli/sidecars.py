"""What is written beside a photo, such as ``photo.jpg.xmp``, and into it."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.bundle.atomic import replace_file
from mrnn_runtime.cli.extensions import optional
from mrnn_runtime.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mrnn_runtime.types import Caption


class Sidecar(StrEnum):
    """What is written beside each image."""

    TXT = "txt"
    JSON = "json"
    XMP = "xmp"


def is_captioned(path: Path, kind: Sidecar | None) -> bool:
    """Say whether the file beside a photo is there; of XMP, whether it has a caption.

    Of no kind: whether the photo itself has one.
    """
    if kind in (Sidecar.TXT, Sidecar.JSON):
        return os.path.exists(beside(str(path), kind))
    from mrnn_runtime import xmp

    try:
        if kind is None:
            return bool(optional("mrnn_photos.metadata").caption_of(path.read_bytes()))
        content = _read_xmp(str(path))
        return bool(content and xmp.caption_of(content))
    except (OSError, ValueError, ImageError):  # writing it will say why
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
    with _blaming(target):
        if kind is Sidecar.XMP:
            from mrnn_runtime import xmp

            before = _read_xmp(result.path)
            if before and not overwrite and xmp.caption_of(before):
                return False
            content = xmp.with_caption(before, result.text)
        else:
            text = json.dumps(result.record()) if kind is Sidecar.JSON else result.text
            content = f"{text}\n".encode("utf-8", "surrogateescape")
        replace_file(target, content)
    return True


def write_metadata(result: Caption, *, overwrite: bool, keep_mtime: bool) -> bool:
    """Write a caption into its photo, as ``write_sidecar`` writes XMP.

    Raises:
        PluginError: mrnn-photos is not installed.
        ImageError: the photo cannot be written, or its metadata cannot be read.
    """
    metadata = optional("mrnn_photos.metadata")
    photo = Path(result.path)
    with _blaming(photo):
        status = photo.stat()
        before = photo.read_bytes()
        if not overwrite and metadata.caption_of(before):
            return False
        content = metadata.with_caption(before, result.text)
        now = photo.stat()
        if (now.st_mtime_ns, now.st_size) != (status.st_mtime_ns, status.st_size):
            raise ValueError("somebody changes it at this moment")
        replace_file(photo, content, through=True, keep_mtime=keep_mtime)
    return True


@contextmanager
def _blaming(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImageError(
            f"{target} cannot be written: {error.strerror}", hint="check the folder's permissions"
        ) from error
    except ValueError as error:
        raise ImageError(
            f"{target} cannot be written: {error}", hint="save the file anew, or move it away"
        ) from error


def beside(path: str | Path, kind: Sidecar) -> Path:
    """Return where the file beside a photo is written."""
    return Path(f"{path}.{kind.value}")


def _read_xmp(path: str) -> bytes:
    """Return what ``photo.jpg.xmp`` holds, else ``photo.xmp``, as other programs name it."""
    from mrnn_runtime.xmp import MOST_BYTES

    for place in (beside(path, Sidecar.XMP), Path(path).with_suffix(".xmp")):
        try:
            if place.exists() and not place.is_file():
                raise ValueError(f"{place} is no file")  # a pipe would be waited for
            with place.open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            continue
    return b""
