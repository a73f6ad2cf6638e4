"""One photo, from a file or from memory, as the array that the encoder takes.

Whatever a file holds, it is read rightly or refused with one ImageError.
"""

from __future__ import annotations

import importlib
import os
import re
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO, TextIOBase
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mrnn_runtime.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from numpy.typing import NDArray

    from mrnn_runtime.types import ImageSource, Preprocess

# The 108 megapixels of a phone pass; the limit holds before a pixel is decoded. What such a photo
# takes in memory depends on its format: see _memory.
MAX_PIXELS = 128_000_000
# Bytes that are read before the pixels: metadata, which Pillow may turn into 20 times as much; of
# some formats the whole file.
_MOST_METADATA, _MOST_WHOLE = 2**23, 2**25
_WHOLE = re.compile(rb"RIFF|.{4}ftyp", re.DOTALL)
_SCAN_HEADER = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\1-\4]")
_MOST_SCANS = 100  # of a JPEG, each of which goes over all pixels; encoders write about ten
# Pixels that are converted at once: a large photo would be in memory several times otherwise.
_STRIP = 1_000_000

# Pillow tries every format it knows otherwise, and the rare ones are where its holes were.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
# How the files of phones begin, behind the length of their first box.
_HEIC = re.compile(rb"ftyp(hei[cxms]|hev[cxms]|mi[af]1|msf1)")
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# By the orientation of EXIF. ImageOps.exif_transpose does the same, but writes the EXIF data anew,
# which fails where cameras wrote odd tags.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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
_MOST_CHECKED = 2**24
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END_OF_CODE = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class _Quiet:
    """Ignores Pillow's warnings while at least one thread is inside.

    Not ``warnings.catch_warnings``: on leaving, that drops the filters that the host has set in the
    meantime, and of two threads that overlap, the last restores what the first had set.
    """

    _MODULES = r"PIL\.(?#mrnn_runtime)"  # equal to no filter of the host

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                warnings.filterwarnings("ignore", module=self._MODULES)
                self._entry = warnings.filters[0]
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                with suppress(ValueError):  # the host has reset its filters
                    warnings.filters.remove(self._entry)  # type: ignore[attr-defined]


_QUIET = _Quiet()


def is_single(images: object) -> bool:
    """Say whether something is one image of a kind that may be read, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | Path | bytes | Image.Image) or hasattr(images, "read")


def name_of(image: object) -> str:
    """Return the name that an image in memory brings, or the empty string."""
    name = getattr(image, "filename", "") or getattr(image, "name", "")
    return name if isinstance(name, str) else ""


def checked(image: object) -> bytes | BinaryIO | Image.Image | NDArray[np.uint8]:
    """Return an image in memory.

    Raises:
        UsageError: it is of no kind that is taken.
    """
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    else:
        fits = is_single(image) and not isinstance(image, TextIOBase)
    if not fits:
        raise wrong_kind(image)
    return cast("bytes | BinaryIO | Image.Image | NDArray[np.uint8]", image)


def wrong_kind(image: object) -> UsageError:
    """Return the error that says what is taken instead of this."""
    what = type(image).__name__
    if isinstance(image, np.ndarray):
        what = f"an array {image.dtype} {list(image.shape)}"
    return UsageError(
        f"{what} is no image that can be read",
        hint="pass a path, bytes, a file opened in binary mode, a PIL image or an array"
        " uint8 [h, w, 3] RGB",
    )


def read_image(
    image: ImageSource,
    preprocess: Preprocess,
    *,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    claim: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """Read an image as the encoder takes it.

    Turned as its EXIF data says, transparency over white, the first frame of an animation.

    Args:
        image: where its pixels are; a path is a file.
        preprocess: the recipe of the bundle.
        name: what errors call it; by default its path, or the name that it brings.
        max_pixels: a larger one is refused before a pixel is decoded.
        claim: told how many bytes are needed at most, before a pixel is decoded; may wait, and may
            raise MemoryError.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        ImageError: there is no such file, or it is no image, damaged or too large.
        UsageError: it is of no kind that is taken.
    """
    name = name or (str(image) if isinstance(image, str | Path) else name_of(image) or "the image")
    with _opened(image, name, min(max_pixels, MAX_PIXELS)) as opened:
        coefficients = opened.width * opened.height if opened.info.get("progressive") else 0
        if preprocess.reduced and opened is not image:  # a caller's own must not change
            _reduce(opened, 2 * max(preprocess.height, preprocess.width))
        if claim is not None:
            claim(_memory(opened, coefficients))
        return np.asarray(_resize(_to_rgb(_upright(opened)), preprocess))


def thumbnail(path: str | Path, side: int) -> bytes:
    """Return an image as a small JPEG: no side longer than ``side``, and no metadata.

    Raises:
        ImageError: there is no such file, or it is no image, damaged or too large.
    """
    with _opened(path, str(path)) as image:
        _reduce(image, side)
        small = _to_rgb(_upright(image))
        small.thumbnail((side, side))
        small.info = {}  # a comment would be saved as well
        jpeg = BytesIO()
        small.save(jpeg, "JPEG", quality=75)
        return jpeg.getvalue()


@contextmanager
def _opened(source: ImageSource, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image whose pixels are not decoded yet; what fails inside is an ImageError.

    Raises:
        ImageError: there is no such file, or it is no image, damaged or too large.
        UsageError: it is of no kind that is taken.
    """
    try:
        with _QUIET, _decoder(source, name) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(name, max_pixels)
            yield image
    except (ImageError, UsageError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, max_pixels) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is no image that can be read", hint=f"use one of {', '.join(_FORMATS)}"
        ) from error
    except MemoryError as error:
        raise ImageError(
            f"{name} is too large: {error or 'there is no memory for it'}",
            hint="scale it down",
        ) from error
    except Exception as error:  # damaged files make Pillow raise almost anything
        if isinstance(error, OSError) and error.errno:  # which Pillow's own have not
            raise _not_readable(name, error) from error
        raise ImageError(
            f"{name} cannot be read: {type(error).__name__}: {error}",
            hint="the file is damaged or incomplete; copy it again or save it anew",
        ) from error


def _decoder(source: ImageSource, name: str) -> AbstractContextManager[Image.Image]:
    if isinstance(source, str | Path):
        return _opened_file(source)
    given = checked(source)
    if isinstance(given, Image.Image):
        return nullcontext(given)
    if isinstance(given, np.ndarray):
        return nullcontext(Image.fromarray(given))
    content = given if isinstance(given, bytes) else given.read()
    if not content:
        raise ImageError(f"{name} is empty", hint="read or download it again")
    return _picture(BytesIO(content), name)


@contextmanager
def _opened_file(path: str | Path) -> Iterator[Image.Image]:
    if not os.path.isfile(path):
        raise _no_file(path)
    # Given a path, Pillow maps some files into memory, and the process dies if one is cut then.
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        if not before.st_size:
            raise ImageError(f"{path} is empty", hint="copy it again")
        with _picture(file, str(path)) as image:
            yield image
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ImageError(f"{path} was written to while it was read", hint="do it again")


@contextmanager
def _picture(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    start = file.read(64)
    file.seek(0)
    metered = _Metered(file, _MOST_WHOLE if _WHOLE.match(start) else _MOST_METADATA)
    opened = _heic(metered, name) if _HEIC.match(start, 4) and b"avi" not in start else None
    with opened or Image.open(cast("BinaryIO", metered), formats=_FORMATS) as image:
        pixels = image.width * image.height
        # Behind the pixels of a PNG there may be more metadata.
        metered.left = 10 * pixels + _MOST_METADATA if image.format == "PNG" else inf
        if image.format in ("JPEG", "MPO"):
            _check_scans(file, image)
        elif image.format == "TIFF" and _tile(image) > 4 * pixels + _MOST_METADATA:
            raise ValueError("its tiles are larger than the picture")
        yield image
        if _is_cut(file, image):
            raise ImageError(
                f"{name} is incomplete: its data end before the picture does", hint="copy it again"
            )


class _Metered:
    """A file of which only so much may be read; each call counts as a little."""

    __slots__ = ("_file", "left")

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self.left: float = most

    def read(self, size: int = -1) -> bytes:
        """Read as a file does.

        Raises:
            ValueError: it is too much in all.
        """
        if self.left < inf and not 0 <= size <= self.left:
            size = int(self.left) + 1
        data = self._file.read(size)
        self.left -= max(len(data), 64)
        if self.left < 0:
            raise ValueError("its metadata are larger than a photo needs")
        return data

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else is the file's
        return getattr(self._file, name)


def _check_scans(file: BinaryIO, image: Image.Image) -> None:
    """Note whether a JPEG comes in several scans, and refuse one with so many that it takes hours.

    Pillow has just read the header of the first scan: two bytes for each of the colours in it.
    """
    end, size = file.tell(), 6 + 2 * len(image.getbands())
    file.seek(max(0, end - size))
    if b"\xff\xda" in file.read(size):  # it is shorter than that of a scan with all colours
        image.info["progressive"] = 1
    if image.info.get("progressive"):
        count, rest = 1, b""
        while piece := file.read(_STRIP):
            count += len(_SCAN_HEADER.findall(rest + piece))
            rest = piece[-4:]
        if count > _MOST_SCANS:
            raise ValueError(f"it comes in more than {_MOST_SCANS} scans")


def _tile(image: Any) -> int:  # noqa: ANN401 - an image of Pillow's for TIFF
    """Return how many bytes a tile of a TIFF is, which Pillow decodes whole."""
    width, height = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    return int(width) * int(height) * len(image.getbands())


def _heic(file: Any, name: str) -> Image.Image:  # noqa: ANN401 - a file, metered
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise ImageError(
            f"{name} is a HEIC photo, and what reads them is not installed",
            hint='pip install "mrnn-runtime[heif]"',
        ) from error
    opened: Image.Image = heif.HeifImageFile(file)
    return opened


def _no_file(path: str | Path) -> ImageError:
    try:
        if os.path.isdir(path):
            os.scandir(path).close()
        else:
            os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return _not_readable(str(path), error)
    return ImageError(f"{path} is missing, or is no ordinary file", hint="check the path")


def _not_readable(name: str, error: OSError) -> ImageError:
    return ImageError(
        f"{name} cannot be read: {error.strerror}", hint="check its permissions and its place"
    )


def _too_large(name: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"{name} is too large: at most {max_pixels / 1e6:g} million pixels are read",
        hint="scale it down",
    )


def _reduce(image: Image.Image, side: int) -> None:
    """Let a JPEG be decoded no larger than is needed for both sides to have ``side`` pixels.

    Other formats offer an embedded thumbnail, which anybody may have put there.
    """
    if image.format in ("JPEG", "MPO"):
        image.draft("RGB", (side, side))  # a square: EXIF data may turn the image yet


def _memory(image: Image.Image, coefficients: int) -> int:
    """Return how many bytes reading an image takes at most, by what its header says.

    Pillow has 4 bytes a pixel, once more where a picture is turned and where it is converted; the
    libraries of some formats have more. Measured on 24 megapixels: 4.3 bytes a pixel of RGB, 8.4
    where it is turned, 14 with transparency as well; 17 of a WebP, 11 of an AVIF; and 6 for the
    coefficients of a progressive JPEG, of its whole size even where it is decoded reduced.
    """
    if image.format in ("WEBP", "AVIF", "HEIF"):
        each = 18
    else:
        # Elsewhere the tag may stand behind the pixels.
        turned = image.format not in ("JPEG", "MPO") or _turn(image) is not None
        each = 5 * (1 + turned + (image.mode != "RGB" or image.has_transparency_data))
    return each * image.width * image.height + 7 * coefficients


def _turn(image: Image.Image) -> Image.Transpose | None:
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a TIFF is turned there, and its tag is gone then
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # converting would copy
    rows = max(1, _STRIP // image.width)
    if image.height <= rows:
        return _strip_to_rgb(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        whole.paste(_strip_to_rgb(image.crop(box)), box)
    return whole


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """Scale the 16 bits of a grey image to 8; Pillow's own conversion clips them at 255."""
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its brightness has no fixed range; save it with 8 or 16 bits")
    return Image.fromarray(((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _resize(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    size = (preprocess.width, preprocess.height)
    interpolation = _INTERPOLATIONS[preprocess.interpolation]
    if preprocess.resize == "crop":
        return ImageOps.fit(image, size, interpolation)
    return image.resize(size, interpolation)


def _is_cut(file: BinaryIO, image: Image.Image) -> bool:
    """Say whether a decoded picture has rows that its file holds no data for.

    Pillow refuses a file that ends too early. It takes one whose compressed data end in good order
    but are too few: a header that claims more rows than there are, say. The rest of a PNG is 0
    then, the rest of a JPEG mid-grey, and only where the last pixel has that colour it is looked at
    more closely. A progressive JPEG counts as whole when its first scan is: the others refine it.

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

    A decoder that has seen all blocks reads no further. A large file is taken to be whole.
    """
    file.seek(0)
    jpeg = file.read(_MOST_CHECKED + 1)
    if len(jpeg) > _MOST_CHECKED:
        return False
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
    marker = _END_OF_CODE.search(jpeg, at + 2)
    end = marker.start() if marker else len(jpeg)
    noise = _NOISE
    if restarts:  # a decoder that waits for the next restart marker skips what is before it
        noise += bytes([0xFF, 0xD0 + len(_RESTART.findall(jpeg, at, end)) % 8]) + noise
    return jpeg[:end] + noise + jpeg[end:]
