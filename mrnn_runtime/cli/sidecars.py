"""What holds a photo's caption beside the output, such as ``photo.jpg.txt`` or the photo itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mrnn_runtime.bundle.atomic import replace_file
from mrnn_runtime.cli.extensions import optional
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from mrnn_runtime.types import Caption


class Sidecar(StrEnum):
    """What is written beside each image."""

    TXT = "txt"
    JSON = "json"
    XMP = "xmp"


class Keeper(Protocol):
    """A kind of file that holds the caption of one photo; mrnn-photos has more of them."""

    def place(self, photo: Path) -> Path:
        """Return the file."""
        ...

    def has_caption(self, photo: Path) -> bool:
        """Say whether a caption is there; False where that cannot be told."""
        ...

    def keep(self, result: Caption) -> bool:
        """Write a caption; False where the file has one of its own, which stays.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: it holds something that would be lost.
            ImageError: it needs what is not installed.
        """
        ...


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of ours, which is written anew: the caption, or what a line of jsonl holds."""

    kind: Sidecar

    def place(self, photo: Path) -> Path:
        """Return the file."""
        return Path(f"{photo}.{self.kind.value}")

    def has_caption(self, photo: Path) -> bool:
        """Say whether the file is there."""
        return os.path.exists(self.place(photo))

    def keep(self, result: Caption) -> bool:
        """Write the file."""
        text = json.dumps(result.record()) if self.kind is Sidecar.JSON else result.text
        content = f"{text}\n".encode("utf-8", "surrogateescape")
        replace_file(self.place(Path(result.path)), content)
        return True


def keepers(
    sidecar: Sidecar | None, *, metadata: bool, overwrite: bool, keep_mtime: bool
) -> tuple[Keeper, ...]:
    """Return what the options of ``mrnn caption`` ask for.

    Raises:
        UsageError: an option has nothing that it is for.
        PluginError: mrnn-photos is needed and not installed.
    """
    if overwrite and not (metadata or sidecar is Sidecar.XMP):
        raise UsageError(
            "--overwrite is for --sidecar xmp and --write-metadata", hint="leave it out"
        )
    if keep_mtime and not metadata:
        raise UsageError("--keep-mtime is for --write-metadata", hint="leave it out")
    made: list[Keeper] = []
    if sidecar is Sidecar.XMP:
        made.append(optional("mrnn_photos.sidecars").XmpFile(overwrite=overwrite))
    elif sidecar is not None:
        made.append(TextFile(sidecar))
    if metadata:
        photo = optional("mrnn_photos.metadata").InPhoto
        made.append(photo(overwrite=overwrite, keep_mtime=keep_mtime))
    return tuple(made)
