"""What reads a JPEG of 12 megapixels fastest: Pillow, or a library that would have to be added.

    python benchmarks/readers.py [--side PIXELS] [--repeats N] [--json FILE]

All decode at the smallest part of the size that leaves both sides twice as large as the input, and
resize with Pillow; those that are not installed are left out (pip install simplejpeg
"pyvips[binary]" opencv-python-headless). One thread each, in turns. The last row decodes an
eighth, of whose pixels nearly none has to be computed: what is left is the Huffman code, which
nobody can skip.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ["VIPS_CONCURRENCY"] = "1"

import numpy as np
from corpus import make_large
from PIL import Image
from turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PHOTOS = 8


def resized(pixels: NDArray[np.uint8] | Image.Image, side: int) -> NDArray[np.uint8]:
    """Return an image as the encoder takes it, uint8 [side, side, 3]."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def pillow(path: Path, side: int, at_least: int) -> NDArray[np.uint8]:
    """Read with Pillow's draft mode, no smaller than ``at_least``."""
    with Image.open(path, formats=["JPEG"]) as image:
        image.draft("RGB", (at_least, at_least))
        return resized(image, side)


def simplejpeg(library: Any, path: Path, side: int, *, fast: bool = False) -> NDArray[np.uint8]:  # noqa: ANN401
    """Read with simplejpeg, which has libjpeg-turbo in its wheel."""
    options = {"min_height": 2 * side, "min_width": 2 * side, "fastdct": fast, "fastupsample": fast}
    return resized(library.decode_jpeg(path.read_bytes(), "RGB", **options), side)


def pyvips(library: Any, path: Path, side: int) -> NDArray[np.uint8]:  # noqa: ANN401
    """Read with libvips, at a quarter of the size."""
    image = library.Image.new_from_file(str(path), shrink=4, access="sequential")
    return resized(image.numpy(), side)


def opencv(library: Any, path: Path, side: int) -> NDArray[np.uint8]:  # noqa: ANN401
    """Read with OpenCV, at a quarter of the size."""
    library.setNumThreads(1)
    coded = np.fromfile(path, np.uint8)
    return resized(library.imdecode(coded, library.IMREAD_REDUCED_COLOR_4)[..., ::-1], side)


def readers(side: int) -> dict[str, Callable[[Path], NDArray[np.uint8]]]:
    """Return what is installed, by name."""
    ways: dict[str, Any] = {"Pillow, draft": partial(pillow, side=side, at_least=2 * side)}
    for name, module, read in (
        ("simplejpeg", "simplejpeg", simplejpeg),
        ("simplejpeg, fast DCT", "simplejpeg", partial(simplejpeg, fast=True)),
        ("pyvips", "pyvips", pyvips),
        ("OpenCV", "cv2", opencv),
    ):
        try:
            ways[name] = partial(read, importlib.import_module(module), side=side)
        except ImportError:
            print(f"{module} is not installed")
    ways["Pillow, an eighth"] = partial(pillow, side=side, at_least=1)
    return ways


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=240, help="of the encoder's input")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    given = parser.parse_args()
    read = readers(given.side)
    with TemporaryDirectory() as folder:
        photos = make_large(Path(folder), PHOTOS)
        jobs = [lambda one=one: list(map(one, photos)) for one in read.values()]
        times = in_turns(given.repeats, *jobs)
        truth = [one.astype(int) for one in map(read["Pillow, draft"], photos)]
        differences = [
            float(np.mean([np.abs(a - one(b)).mean() for a, b in zip(truth, photos, strict=True)]))
            for one in read.values()
        ]
    print(
        "| reader | ms a photo | times faster than Pillow | grey levels apart |\n|---|---|---|---|"
    )
    rows = []
    for name, mine, apart in zip(read, times, differences, strict=True):
        ratio = statistics.median(a / b for a, b in zip(times[0], mine, strict=True))
        milliseconds = statistics.median(mine) * 1000 / len(photos)
        print(f"| {name} | {milliseconds:.1f} | {ratio:.2f} | {apart:.2f} |")
        rows.append({"reader": name, "ms": milliseconds, "ratio": ratio, "apart": apart})
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
