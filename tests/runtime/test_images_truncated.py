"""Pictures whose data end too early, though in good order: told from those that really look so."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mrnn_runtime.errors import ImageError
from mrnn_runtime.images import read_image, thumbnail
from mrnn_runtime.types import Preprocess

SIZE = (93, 77)
JPEGS = [
    {},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"restart_marker_rows": 1},
    {"subsampling": 0, "quality": 95},
    {"quality": 30},
]


def pixels(kind):
    """A picture of noise, or a smooth one; uint8 [77, 93, 3]."""
    random = np.random.default_rng(0)
    if kind == "noise":
        return random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
    return np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC))


def jpeg(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def taller(content, rows):
    """The JPEG whose header claims more rows."""
    at = re.search(rb"\xff[\xc0\xc2]", content).start() + 5
    return content[:at] + struct.pack(">H", rows) + content[at + 2 :]


def ended(content, share):
    """The JPEG whose code ends after a share of it, with an end sign."""
    start = content.index(b"\xff\xda")
    at = start + int((len(content) - start) * share)
    return content[: at - (content[at - 1] == 0xFF)] + b"\xff\xd9"


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(array, rows, *, depth=8, colour=2, interlace=0, pieces=1):
    """A PNG that claims ``rows`` rows and has those of the array, uint8 [r, bytes of a row]."""
    width = array.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in array))
    size = -(-len(data) // pieces)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, rows, depth, colour, 0, 0, interlace)),
            chunk(b"PLTE", bytes(range(48))) if colour == 3 else b"",
            *(chunk(b"IDAT", data[i * size : (i + 1) * size]) for i in range(pieces)),
            chunk(b"IEND", b""),
        ]
    )


def read(tmp_path, content, **recipe):
    (tmp_path / "x").write_bytes(content)
    return read_image(tmp_path / "x", Preprocess(20, 20, **recipe))


def refused(tmp_path, content, **recipe):
    with pytest.raises(ImageError, match="its data end before the picture does"):
        read(tmp_path, content, **recipe)


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("options", JPEGS)
class TestJpeg:
    def test_a_header_that_claims_more_rows(self, tmp_path, kind, options):
        refused(tmp_path, taller(jpeg(pixels(kind), **options), SIZE[1] + 40))

    def test_a_picture_that_ends_in_grey(self, tmp_path, kind, options):
        array = np.array(pixels(kind))
        array[40:] = 128
        read_pixels = read(tmp_path, jpeg(array, **options))
        assert (read_pixels[-4:] == 128).all()


# Of a progressive one the first scan is whole: the picture is coarse, but there.
@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("options", [one for one in JPEGS if "progressive" not in one])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_code_of_a_jpeg_that_ends_early(tmp_path, kind, options, share):
    refused(tmp_path, ended(jpeg(pixels(kind), **options), share))
    refused(tmp_path, ended(jpeg(pixels(kind), **options), share), reduced=True)


def test_a_thumbnail_is_refused_as_well(tmp_path):
    (tmp_path / "x.jpg").write_bytes(ended(jpeg(pixels("noise")), 0.5))
    with pytest.raises(ImageError, match="its data end before the picture does"):
        thumbnail(tmp_path / "x.jpg", 16)


class TestPng:
    @pytest.mark.parametrize(
        ("depth", "colour", "width"),
        [(8, 2, 90), (8, 6, 80), (8, 0, 30), (8, 4, 30), (16, 0, 40), (1, 0, 4), (4, 3, 8)],
    )
    @pytest.mark.parametrize("pieces", [1, 3])
    def test_rows_that_are_missing(self, tmp_path, depth, colour, width, pieces):
        rows = np.random.default_rng(0).integers(1, 256, (30, width), np.uint8)
        facts = {"depth": depth, "colour": colour, "pieces": pieces}
        read(tmp_path, png(rows, 30, **facts))
        for claimed in (31, 60):
            refused(tmp_path, png(rows, claimed, **facts))

    def test_a_picture_that_ends_in_black(self, tmp_path):
        rows = np.zeros((30, 90), np.uint8)
        assert not read(tmp_path, png(rows, 30)).any()
        refused(tmp_path, png(rows, 31))

    def test_an_interlaced_one(self, tmp_path):
        """The seven passes of 5 x 5 pixels of grey: 1, 1, 2, 2 x 1, 3, 2 x 3, 5 x 2 rows."""
        passes = [(1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 2), (2, 5)]  # rows, columns
        rows = [b"\0" + bytes([200]) * columns for count, columns in passes for _ in range(count)]
        head = struct.pack(">IIBBBBB", 5, 5, 8, 0, 0, 0, 1)
        for kept in (len(rows), len(rows) - 1):
            content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
            content += chunk(b"IDAT", zlib.compress(b"".join(rows[:kept]))) + chunk(b"IEND", b"")
            if kept == len(rows):
                assert (read(tmp_path, content) == 200).all()
            else:
                refused(tmp_path, content)
