"""What decoding large JPEGs at a part of their size does to captions: agreement, CIDEr, pixels.

    python benchmarks/reduced.py DIR [--dataset flickr8k] [--model NAME|DIR] [--limit N]
        [--json FILE]

The dev photos of a data set are enlarged to 12 megapixels, given the grain of a camera and saved as
JPEGs; each is then captioned twice, decoded whole and reduced.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from corpus import LARGE, enlarge

from mrnn_exporters import datasets, metrics
from mrnn_runtime import load
from mrnn_runtime.images import read_image


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="the folder of the data set")
    parser.add_argument("--dataset", default="flickr8k")
    parser.add_argument("--model", default="flickr8k", help="an installed model, or a bundle")
    parser.add_argument("--limit", type=int, default=200, help="photos")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    given = parser.parse_args()
    examples = datasets.read(given.dataset, given.root, "dev")[: given.limit]
    loaded = load(given.model, provider="cpu", threads=1)
    whole, reduced = (
        replace(loaded, bundle=replace(loaded.bundle, preprocess=recipe))
        for recipe in (replace(loaded.bundle.preprocess, reduced=on) for on in (False, True))
    )
    captions: list[tuple[str, str]] = []
    differences = []
    with TemporaryDirectory() as folder:
        file = Path(folder, "large.jpg")
        for place, example in enumerate(examples):
            enlarge(example.path, LARGE, seed=place).save(file, quality=90)
            first, second = (next(one.caption(file)).text for one in (whole, reduced))
            captions.append((first, second))
            pixels = [
                read_image(file, one.bundle.preprocess).astype(int) for one in (whole, reduced)
            ]
            differences.append(float(np.abs(pixels[0] - pixels[1]).mean()))
    truth = [list(example.captions) for example in examples]
    measured = [metrics.measure(truth, side) for side in zip(*captions, strict=True)]
    cider = [one.values["CIDEr"] for one in measured]
    figures = {
        "photos": len(examples),
        "same captions": sum(a == b for a, b in captions) / len(captions),
        "CIDEr whole": cider[0],
        "CIDEr reduced": cider[1],
        "grey levels of difference": float(np.mean(differences)),
    }
    for name, value in figures.items():
        print(f"- {name}: {value:.4g}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
