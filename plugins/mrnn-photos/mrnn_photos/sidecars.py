"""Captions in XMP files beside photos, where photo libraries read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_photos import xmp
from mrnn_photos.reading import read_file
from mrnn_runtime.build import replace_file

if TYPE_CHECKING:
    from mrnn_runtime import Caption


@dataclass(frozen=True, slots=True)
class XmpFile:
    """``photo.jpg.xmp``, which keeps all that it says.

    Attributes:
        overwrite: whether a caption that is there is replaced.
    """

    overwrite: bool

    def place(self, photo: Path) -> Path:
        """Return the file."""
        return Path(f"{photo}.xmp")

    def has_caption(self, photo: Path) -> bool:
        """Say whether the file is there and has a caption."""
        try:
            content = self._read(photo)
            return bool(content and xmp.caption_of(content))
        except (OSError, ValueError):  # writing it will say why
            return False

    def keep(self, result: Caption) -> bool:
        """Write the caption; False where the file keeps its own.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: it is no XMP, or a link.
        """
        if not result.text:
            return True
        photo = Path(result.path)
        before = self._read(photo)
        if before and not self.overwrite and xmp.caption_of(before):
            return False
        replace_file(self.place(photo), xmp.with_caption(before, result.text))
        return True

    def _read(self, photo: Path) -> bytes:
        """Return what ``photo.jpg.xmp`` holds, else ``photo.xmp``, as other programs name it."""
        for place in (self.place(photo), photo.with_suffix(".xmp")):
            try:
                return read_file(place, xmp.MOST_BYTES)
            except FileNotFoundError:
                continue
        return b""
