"""The caption inside of a photo: read, and put in beside everything else that the photo says.

It stands at three places, which programs read in different orders: dc:description of XMP,
Caption-Abstract of IPTC and ImageDescription of EXIF. Exiv2 writes what it can, on bytes in memory;
exiftool, where it is installed, writes the rest: formats such as HEIC, and what Exiv2 would lose.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyexiv2

from mrnn_photos import exiftool, xmp
from mrnn_photos.reading import read_file
from mrnn_runtime import ImageError
from mrnn_runtime.build import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mrnn_runtime import Caption

_EXIF = "Exif.Image.ImageDescription"
_IPTC = "Iptc.Application2.Caption"
_IPTC_CHARSET = "Iptc.Envelope.CharacterSet"
_UTF8 = "\x1b%G"
# References of one or two digits, as for an apostrophe, come out of Exiv2 as a space.
_LOST_BY_EXIV2 = re.compile(rb"&#x(?!0?[9aAdD];)[0-9a-fA-F]{1,2};")
_MOST_BYTES = 2**28  # Exiv2 and we hold a photo several times
_EMPTY_JPEG = b"\xff\xd8\xff\xd9"
# Cameras write their names there, which no person did.
_OF_CAMERAS = {
    *("OLYMPUS DIGITAL CAMERA", "SONY DSC", "MINOLTA DIGITAL CAMERA"),
    *("KONICA MINOLTA DIGITAL CAMERA", "DIGITAL CAMERA", "SAMSUNG"),
}
# Warnings would go to stdout. What is an error while reading would be lost by writing, so it is
# raised; see _opened.
pyexiv2.set_log_level(3)


@dataclass(frozen=True, slots=True)
class InPhoto:
    """The photo itself.

    Attributes:
        overwrite: whether a caption that is there is replaced.
        keep_mtime: whether the time of the last change stays.
    """

    overwrite: bool
    keep_mtime: bool

    def place(self, photo: Path) -> Path:
        """Return the photo."""
        return photo

    def has_caption(self, photo: Path) -> bool:
        """Say whether the photo has a caption."""
        try:
            return bool(caption_of(read_file(photo, _MOST_BYTES)))
        except (OSError, ValueError, ImageError):  # writing it will say why
            return False

    def keep(self, result: Caption) -> bool:
        """Write the caption; False where the photo keeps its own.

        Raises:
            OSError: the photo cannot be read or written.
            ImageError: it is a matter for exiftool, which is not installed.
            ValueError: it is a link or too large, its metadata cannot be read, or somebody changes
                it.
        """
        if not result.text:
            return True
        photo = Path(result.path)
        status = photo.stat()
        before = read_file(photo, _MOST_BYTES)
        if not self.overwrite and caption_of(before):
            return False
        content = with_caption(before, result.text)
        now = photo.stat()
        if (now.st_mtime_ns, now.st_size) != (status.st_mtime_ns, status.st_size):
            raise ValueError("somebody changes it at this moment")
        replace_file(photo, content, keep_mtime=self.keep_mtime)
        return True


def caption_of(content: bytes) -> str:
    """Return the caption that a photo has, or the empty string.

    Raises:
        ImageError: it is a matter for exiftool, which is not installed.
        ValueError: its metadata cannot be read.
    """
    with _opened(content) as image:
        if image is None:
            said = exiftool.captions_of(content)
        else:
            said = (
                xmp.caption_of(packet.encode()) if (packet := image.read_raw_xmp()) else "",
                # Latin-1 takes any byte; whether something is said is all that matters of these.
                _text(image.read_iptc("latin-1").get(_IPTC)),
                _text(image.read_exif("latin-1").get(_EXIF)),
            )
    lines = (xmp.one_line(one) for one in said)
    return next((line for line in lines if line and line.upper() not in _OF_CAMERAS), "")


def with_caption(content: bytes, caption: str) -> bytes:
    """Return a photo with another caption, at all places that its format has.

    Raises:
        ImageError: it is a matter for exiftool, which is not installed.
        ValueError: its metadata cannot be read, or none can be put in.
    """
    caption = xmp.one_line(caption)
    made = _written(content, caption)
    if caption and not caption_of(made):  # Exiv2 writes what it can of a PNG with a damaged header
        raise ValueError("what is written into it cannot be read back")
    return made


def _written(content: bytes, caption: str) -> bytes:
    with _opened(content) as image:
        if image is None:
            return exiftool.with_caption(content, caption)
        image.modify_exif({_EXIF: caption})
        if image.get_access_mode()["iptc"] == "read+write":
            image.modify_iptc(_iptc(image.read_iptc("latin-1"), caption))
        image.modify_raw_xmp(xmp.with_caption(image.read_raw_xmp().encode(), caption).decode())
        return bytes(image.get_bytes())


def _iptc(said: dict[str, str | list[str]], caption: str) -> dict[str, str]:
    """Return what to write; nothing where it would be read in another encoding than UTF-8."""
    if caption.isascii():
        return {_IPTC: caption}
    if not said or said.get(_IPTC_CHARSET) == _UTF8:
        return {_IPTC_CHARSET: _UTF8, _IPTC: caption}
    return {}


@contextmanager
def _opened(content: bytes) -> Iterator[pyexiv2.ImageData | None]:
    """Open a photo with Exiv2; None where that is a matter for exiftool.

    Raises:
        ValueError: it cannot be read, or what the block writes cannot be.
    """
    if _LOST_BY_EXIV2.search(content):
        yield None
        return
    _forget_errors()
    try:
        with pyexiv2.ImageData(content) as image:
            # Of HEIC that exiftool wrote, Exiv2 0.28 does not even read XMP.
            writes = image.get_access_mode()["xmp"] == "read+write"
            yield image if writes else None
    except RuntimeError as error:
        raise ValueError(
            xmp.one_line(str(error)).removeprefix("Caught Exiv2 exception: ")
        ) from error


def _forget_errors() -> None:
    """Have pyexiv2 raise what it still holds of a photo that failed, or the next one would fail."""
    with suppress(RuntimeError), pyexiv2.ImageData(_EMPTY_JPEG):
        pass


def _text(value: str | list[str] | None) -> str:
    return " ".join(value) if isinstance(value, list) else value or ""
