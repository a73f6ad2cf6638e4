"""Pictures whose data end before the picture does.

Pillow refuses a file that ends too early. It takes one whose compressed data end in good order but
are too few: a header that claims more rows than there are, say. The rest of a PNG is 0 then, the
rest of a JPEG mid-grey, and only where the last pixel has that colour it is looked at more closely.
A progressive JPEG counts as whole when its first scan is: the others refine the picture.
"""

from __future__ import annotations

import re
import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from typing import BinaryIO

# Samples a pixel, by the colour type of a PNG.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Of the passes of an interlaced PNG: the first column and row, and the steps between them.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_PIECE = 1 << 16
# Read as the code of a JPEG, it makes blocks that are not grey. 0xFF would start a marker.
_NOISE = bytes(range(1, 255)) * 2
_SCAN, _RESTART_INTERVAL = 0xDA, 0xDD
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END_OF_CODE = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def is_cut(file: BinaryIO, image: Image.Image) -> bool:
    """Say whether a decoded picture has rows that its file holds no data for.

    Args:
        file: the whole file, seekable; its position is changed.
        image: its picture, decoded, not yet turned or converted.
    """
    corner = image.getpixel((image.width - 1, image.height - 1))
    values = corner if isinstance(corner, tuple) else (corner,)
    if image.format == "PNG":
        return (not any(values[:3]) or "interlace" in image.info) and _png_is_cut(file)
    return set(values) <= {127, 128} and image.format in ("JPEG", "MPO") and _jpeg_is_cut(file)


def _png_is_cut(file: BinaryIO) -> bool:
    """Say whether the compressed data of a PNG hold fewer bytes than its pixels need."""
    file.seek(8)
    inflate, held, needed = zlib.decompressobj(), 0, 1
    while held < needed and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IHDR":
            needed = _png_size(*struct.unpack(">IIBBxxB", file.read(13)))
        elif kind == b"IDAT":
            for start in range(0, length, _PIECE):
                held += _inflated(inflate, file.read(min(_PIECE, length - start)))
        else:
            file.seek(length, 1)
        file.seek(4, 1)  # the checksum
    return held < needed


def _inflated(inflate: Any, data: bytes) -> int:  # noqa: ANN401 - a decompressobj of zlib
    """Return how many bytes come of some more data; they are in memory piece by piece."""
    count = 0
    while data:
        count += len(inflate.decompress(data, _PIECE))
        data = inflate.unconsumed_tail
    return count


def _png_size(width: int, height: int, depth: int, colour: int, interlace: int) -> int:
    """Return how many bytes the rows of a PNG are, each with the byte that names its filter."""
    size = 0
    for left, top, across, down in _PASSES if interlace else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * depth * _SAMPLES[colour] + 7) // 8)
    return size


def _jpeg_is_cut(file: BinaryIO) -> bool:
    """Say whether a JPEG shows something else where the code of its first scan goes on.

    A decoder that has seen all blocks reads no further.
    """
    file.seek(0)
    jpeg = file.read()
    seen = []
    for content in (jpeg, _prolonged(jpeg)):
        with Image.open(BytesIO(content), formats=["JPEG"]) as image:
            image.draft("RGB", (1, 1))  # an eighth of the size will do
            seen.append(image.convert("RGB").tobytes())
    return seen[0] != seen[1]


def _prolonged(jpeg: bytes) -> bytes:
    """Return a JPEG with noise behind the code of its first scan."""
    at, restarts = 2, False
    while (kind := jpeg[at + 1]) != _SCAN:
        restarts |= kind == _RESTART_INTERVAL
        at += 1 if kind == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    found = _END_OF_CODE.search(jpeg, at + 2)
    end = found.start() if found else len(jpeg)
    noise = _NOISE
    if restarts:  # a decoder that waits for the next restart marker skips what is before it
        noise += bytes([0xFF, 0xD0 + len(_RESTART.findall(jpeg, at, end)) % 8]) + noise
    return jpeg[:end] + noise + jpeg[end:]
