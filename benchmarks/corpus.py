"""Photos of realistic sizes, made of the eight of the demo.

Each is enlarged, given the grain of a camera, and saved as a camera or an editor would: what it
takes to read depends on sizes and formats, not on what is to be seen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Sequence

    Kind = tuple[tuple[int, int], str, bool]  # size, suffix, whether EXIF data turn it

DEMO = Path(__file__).parent.parent / "docs" / "demo" / "photos"
LARGE = (4000, 3000)
# Of ten photos: how many, their size, the suffix of the file and whether EXIF data turn them.
MIX = (
    (4, LARGE, "jpg", False),
    (1, LARGE, "jpg", True),
    (2, (1600, 1200), "jpg", False),
    (1, (1280, 960), "webp", False),
    (1, (1024, 768), "png", False),
    (1, (500, 375), "jpg", False),
)
# So many files are made, the others are hard links to them: the system has them in its cache.
_DISTINCT = 16


def enlarge(
    photo: Path, size: tuple[int, int], *, grain: float = 5.0, seed: int = 0
) -> Image.Image:
    """Return a photo of a size, cut to its shape, with noise as of a sensor.

    Args:
        photo: a file.
        size: width and height in pixels.
        grain: standard deviation of the brightness, of 255.
        seed: of the noise.
    """
    with Image.open(photo) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    image = ImageOps.fit(upright, size, Image.Resampling.BICUBIC)
    random = np.random.default_rng(seed)
    noise = random.normal(0.0, grain, (size[1], size[0], 1)).astype(np.float32)
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def make_large(folder: Path, count: int, size: tuple[int, int] = LARGE) -> list[Path]:
    """Write ``count`` JPEGs of a size, 12 megapixels by default; return them."""
    return _make(folder, count, [(size, "jpg", False)])


def make_mix(folder: Path, count: int) -> list[Path]:
    """Write ``count`` files of the sizes and formats of MIX; return them."""
    kinds = [(size, suffix, turned) for many, size, suffix, turned in MIX for _ in range(many)]
    return _make(folder, count, kinds)


def _make(folder: Path, count: int, kinds: Sequence[Kind]) -> list[Path]:
    photos, files = sorted(DEMO.glob("*.jpg")), []
    distinct = _DISTINCT // len(kinds) * len(kinds) or len(kinds)
    for place in range(count):
        size, suffix, turned = kinds[place % len(kinds)]
        files.append(folder / f"{place:05}.{suffix}")
        if place >= distinct:
            os.link(files[place % distinct], files[place])
            continue
        image, exif = enlarge(photos[place % len(photos)], size, seed=place), Image.Exif()
        if turned:
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif[ExifTags.Base.Orientation] = 6
        image.save(files[-1], quality=90, exif=exif)
    return files
