"""Caption thousands of photos in one process, and watch its memory.

    python tests/robustness/soak.py --photos 10000

Photos are made up, of many sizes and formats, and come round again and again; or they are those of
--images. Ends with exit code 1 where resident memory grows by more than --growth percent after the
warm-up (the first tenth), or its peak is above --peak MB. Linux only.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from mrnn_runtime import load

FORMATS = (("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("webp", {}))


def memory(what):
    """Return the resident memory of this process in MB: VmRSS now, or VmHWM at most."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024


def make_photos(folder, count):
    """Write photos like those that people have: not noise, and no two sizes alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        width, height = random.integers(100, 1600, 2)
        coarse = random.integers(0, 256, (9, 12, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        suffix, options = FORMATS[number % len(FORMATS)]
        image.save(folder / f"{number:03}.{suffix}", **options)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no photo")


def soak(captioner, images, photos, **options):
    """Caption; return the memory in MB after every hundredth photo."""
    paths = islice(cycle(sorted(p for p in images.rglob("*") if p.is_file())), photos)
    samples = []
    for number, _ in enumerate(captioner.caption(paths, **options), 1):
        if number % 100 == 0:
            samples.append(memory("VmRSS"))
            if number % 1000 == 0:
                print(f"{number} photos: {samples[-1]:.1f} MB", file=sys.stderr, flush=True)
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--images", type=Path, help="a folder of photos, instead of made-up ones")
    parser.add_argument("--model", help="a name or a folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--growth", type=float, default=5)
    parser.add_argument("--peak", type=float, default=400)
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        images = args.images or Path(folder)
        if args.images is None:
            make_photos(images, 60)
        captioner = load(args.model, provider="cpu", threads=args.threads)
        options = {"batch_size": args.batch_size, "workers": args.workers}
        samples = soak(captioner, images, args.photos, **options)
    # Medians, since a sample may fall into the middle of a photo.
    tenth = max(1, len(samples) // 10)
    before, after = (
        statistics.median(part) for part in (samples[tenth:][:tenth], samples[-tenth:])
    )
    growth, peak = 100 * (after / before - 1), memory("VmHWM")
    print(
        f"{args.photos} photos in {time.perf_counter() - start:.0f} s: {before:.1f} MB after the"
        f" warm-up, {after:.1f} MB at the end ({growth:+.1f} %), {peak:.1f} MB at most"
    )
    return int(growth > args.growth or peak > args.peak)


if __name__ == "__main__":
    sys.exit(main())
