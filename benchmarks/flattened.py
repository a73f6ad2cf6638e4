"""How `mrnn flatten` compares with the Python loop: captions, scores and time.

    python benchmarks/flattened.py --photos DIR [--limit N] [--single N] [--model M] [--json FILE]

Greedy and beam search, one photo and four at a time, on one thread, batch by batch in turns in one
process: their ratio is worth more than their times. The start is that of a new Python with NumPy
and ONNX Runtime alone that captions one photo, against the import of these two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mrnn_exporters import flatten
from mrnn_runtime import Captioner, load, read_image
from mrnn_runtime.build import find_images
from mrnn_runtime.engine.flat import FlatModel, open_flat

_IMPORT = "import numpy, onnxruntime"
_CAPTION = """
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
session.run(["caption"], {{"image": numpy.zeros((1, {height}, {width}, 3), numpy.uint8)}})
"""


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--names", type=Path, metavar="FILE", help="of some of them, one a line")
    parser.add_argument("--limit", type=int, default=1000, metavar="N")
    parser.add_argument("--single", type=int, default=1000, metavar="N", help="one at a time")
    parser.add_argument("--model", default="flickr8k", metavar="MODEL")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.names:
        paths = [given.photos / name for name in given.names.read_text().split()]
    else:
        paths = find_images([given.photos])
    captioner = load(given.model, provider="cpu", threads=1)
    recipe = captioner.bundle.preprocess
    images = np.stack([read_image(path, recipe) for path in paths[: given.limit]])
    results: dict[str, object] = {
        "version": captioner.bundle.version,
        "precision": captioner.bundle.precision,
    }
    with TemporaryDirectory() as scratch:
        for decoder in ("beam", "greedy"):
            path = Path(scratch, f"{decoder}.onnx")
            flatten.run(given.model, path, decoder=decoder)
            flat = open_flat(path, "cpu", threads=1)
            for size, some in ((4, images), (1, images[: given.single])):
                name = f"{decoder}, {size} at a time"
                results[name] = figures = compare(captioner, flat, decoder, some, size)
                print(name, figures, flush=True)
        results["start"] = start(path, recipe.height, recipe.width)
        results["bytes"] = path.stat().st_size
        print("start", results["start"])
    if given.json:  # beside what it holds of other models
        every = json.loads(given.json.read_text()) if given.json.exists() else {}
        every[captioner.bundle.name] = results
        given.json.write_text(json.dumps(every, indent=1) + "\n")


def compare(
    captioner: Captioner, flat: FlatModel, decoder: str, images: np.ndarray, size: int
) -> dict[str, float]:
    """Caption uint8 [n, h, w, 3] with both, and count where they part."""
    names = ["token", "length", "log_prob", "score"]
    ratios, differ, worst = [], 0, 0.0
    for i in range(0, len(images), size):
        batch = images[i : i + size]
        began = time.perf_counter()
        ours = captioner.decode(captioner.encoder.encode(batch), decoder=decoder)
        between = time.perf_counter()
        outputs = flat.session.run(names, {"image": batch})
        ratios.append((time.perf_counter() - between) / (between - began))
        for (best, *_), token, length, *numbers in zip(ours, *outputs, strict=True):
            differ += tuple(token[0, : length[0]].tolist()) != best.tokens
            for number, wanted in zip(numbers, (best.log_prob, best.score), strict=True):
                worst = max(worst, abs(float(number[0]) - wanted))
    return {
        "photos": len(images),
        "other captions": differ,
        "largest difference of log_prob and score": worst,
        "time, share of the Python loop": round(statistics.median(ratios), 3),
    }


def start(path: Path, height: int, width: int) -> dict[str, float]:
    """Time new interpreters in turns: the imports alone, and a caption with nothing else."""
    caption = _IMPORT + _CAPTION.format(path=str(path), height=height, width=width)
    times: dict[str, list[float]] = {_IMPORT: [], caption: []}
    for _ in range(7):
        for code, mine in times.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            mine.append(time.perf_counter() - began)
    imports, whole = (statistics.median(mine) for mine in times.values())
    return {"imports, s": round(imports, 3), "ratio": round(whole / imports, 2)}


if __name__ == "__main__":
    main()
