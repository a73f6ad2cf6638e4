"""Photos that are opened when a captioner reads them, in the thread that reads."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from pyarrow.fs import FileSystem

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from mrnn_runtime import ImageSource


@dataclass(frozen=True, slots=True)
class Photo:
    """What a captioner takes for an open file.

    Attributes:
        name: what its record says.
        content: returns the bytes of its file, or raises OSError.
    """

    name: str
    content: Callable[[], bytes]

    def read(self) -> bytes:
        """Return the bytes of its file."""
        return self.content()


def in_memory(name: str, content: bytes | None) -> ImageSource:
    """Return a photo whose bytes are there; None is a photo that is empty."""
    return cast("BinaryIO", Photo(name, lambda: content or b""))


def remote(name: str, filesystem: FileSystem, path: str) -> ImageSource:
    """Return a photo of one of pyarrow's file systems."""
    return cast("BinaryIO", Photo(name, partial(_fetch, filesystem, path)))


def local(name: str, path: str) -> ImageSource:
    """Return a photo of this machine. What its errors say is what ``mrnn caption`` says."""
    if name != path or os.path.isdir(path or "."):  # a captioner would walk the folder
        return cast("BinaryIO", Photo(name, partial(_read, path)))
    return path


def at(name: str, place: str) -> ImageSource:
    """Return the photo of a path or of a URI of pyarrow's file systems."""
    if "://" in place:
        with suppress(OSError, ValueError):  # reading it as a path will say that there is none
            return remote(name, *FileSystem.from_uri(place))
    return local(name, place)


def _fetch(filesystem: FileSystem, path: str) -> bytes:
    with filesystem.open_input_file(path) as file:
        return bytes(file.read())


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
