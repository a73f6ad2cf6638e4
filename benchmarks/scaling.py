"""How time and memory grow with the work: photos of a folder, of a gallery, of the references.

    python benchmarks/scaling.py [--model NAME|DIR] [--only PART] [--largest N] [--json FILE]

Each size is measured once, in a process of its own; the exponent is that of the line through the
logarithms. Photos of a folder are hard links to sixteen small files, which the system has in its
cache, and the model is that of the tests: how long a net takes is another question. Vectors are
made up, or repeat a few. Memory is the highest resident of the process; where a
file is mapped, the system counts what it keeps of it as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from consensus import resident
from corpus import DEMO, make_large

from mrnn_runtime import EncodedImages, load, testing
from mrnn_runtime.engine.sessions import cores
from mrnn_runtime.reranking.neighbours import Features, nearest
from mrnn_runtime.retrieval.gallery import Gallery
from mrnn_runtime.retrieval.ranking import find_photos

SIZES = {
    "photos": (100, 1_000, 10_000, 100_000),
    "gallery": (1_000, 10_000, 100_000, 1_000_000),
    "references": (10_000, 100_000, 1_000_000),
}
# What takes minutes has to be asked for.
LARGEST = {"photos": 1_000, "gallery": 10_000, "references": 1_000_000}
FEATURE, NEIGHBOURS = 512, 60
SENTENCE = "a dog runs over the grass"


@dataclass(frozen=True, slots=True)
class Measured:
    """One size of one part: seconds, and megabytes at most."""

    part: str
    count: int
    seconds: float
    megabytes: float


def photos(_: str, count: int) -> float:
    """Caption a folder on all cores with the model of the tests; return the seconds."""
    with TemporaryDirectory() as place, TemporaryDirectory() as folder:
        captioner = load(testing.tiny_bundle(Path(place, "tiny")), provider="cpu", threads=1)
        make_large(Path(folder), count, (320, 240))
        began = time.perf_counter()
        done = captioner.caption(folder, workers=cores(), decoder="greedy")
        assert sum(one.error is None for one in done) == count
        return time.perf_counter() - began


def gallery(model: str, count: int) -> float:
    """Rank photos for a sentence; return the seconds."""
    captioner = load(model, provider="cpu", threads=1)
    encoded = captioner.encode(sorted(DEMO.glob("*.jpg")))
    rows = np.arange(count) % len(encoded)
    inputs = {name: array[rows] for name, array in encoded.inputs.items()}
    images = EncodedImages(inputs, np.empty((count, 0), np.float32))
    paths = tuple(Path(f"{place}.jpg") for place in range(count))
    began = time.perf_counter()
    assert len(find_photos(captioner, SENTENCE, Gallery(paths, images, {}))) == count
    return time.perf_counter() - began


def references(_: str, count: int) -> float:
    """Find the nearest references of a photo, in a file that is mapped; return the seconds."""
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        path = Path(folder, "features.npy")
        numbers = np.lib.format.open_memmap(path, "w+", np.int8, (count, FEATURE))
        for start in range(0, count, 10_000):
            numbers[start : start + 10_000] = random.integers(-127, 128, (10_000, FEATURE), np.int8)
        numbers.flush()
        del numbers
        steps, squares = np.full(count, 0.01, np.float32), np.full(count, 137.0, np.float32)
        features = Features(np.load(path, mmap_mode="r"), steps, squares)
        photo = random.standard_normal((1, FEATURE)).astype(np.float32)
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        began = time.perf_counter()
        nearest(features, photo, NEIGHBOURS)
        return time.perf_counter() - began


PARTS = {"photos": photos, "gallery": gallery, "references": references}


def exponent(points: list[Measured]) -> float:
    """Return e of the power law seconds ~ count ** e that fits best."""
    counts, seconds = ([getattr(one, name) for one in points] for name in ("count", "seconds"))
    return float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="flickr8k", help="an installed model, or a bundle")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--largest", type=int, help="sizes up to this one")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)  # in the process of a size
    given = parser.parse_args()
    if given.count:
        seconds = PARTS[given.only](given.model, given.count)
        print(json.dumps(asdict(Measured(given.only, given.count, seconds, resident("VmHWM")))))
        return
    rows, fits = [], {}
    print("| part | count | s | MB at most |\n|---|---|---|---|")
    for part in [given.only] if given.only else PARTS:
        for count in (c for c in SIZES[part] if c <= (given.largest or LARGEST[part])):
            command = [sys.executable, __file__, "--model", given.model, "--only", part]
            ran = subprocess.run(
                [*command, "--count", str(count)], check=True, stdout=subprocess.PIPE
            )
            rows.append(Measured(**json.loads(ran.stdout)))
            print(f"| {part} | {count} | {rows[-1].seconds:.3g} | {rows[-1].megabytes:.0f} |")
        fits[part] = exponent([row for row in rows if row.part == part])
    print()
    for part, fit in fits.items():
        print(f"- {part}: time grows with the count to the power of {fit:.2f}")
    if given.json:
        record = {"rows": [asdict(row) for row in rows], "exponents": fits}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
