"""How fast sentences are scored against images: against a plain matrix product, and pair by pair.

    python benchmarks/retrieval.py [--model NAME|DIR] [--dataset NAME --root DIR] [--sentences N]
        [--repeats N] [--json FILE]

The sentences are samples of the model itself, so that they begin alike as those of a corpus do; the
images are noise, which takes as long as photos; --dataset and --root take the sentences of a test
split instead. All sides have one thread, but where it says all cores, and take turns in a process,
so their ratios are worth more than their times. The plain product is numpy's, of as many rows as a
block of the scorer has, and of nothing but the softmax's matrix.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from turns import in_turns

from mrnn_exporters import datasets
from mrnn_exporters.progress import on_all_cores
from mrnn_exporters.scoring import log_probs
from mrnn_runtime import load
from mrnn_runtime.engine.sessions import cores
from mrnn_runtime.retrieval.scorer import _ROWS, IMAGES, load_scorer

if TYPE_CHECKING:
    from mrnn_runtime import Captioner, EncodedImages

PAIRS = 64


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured.

    Attributes:
        images: that the sentences were scored against.
        sentences: different ones.
        branches: different beginnings of them.
        scorer_gflops: of the softmax's products alone, by the scorer's time.
        product_gflops: of the plain matrix product.
        share: the scorer's part of the plain product's rate.
        against_pairs: how many times longer a pair takes where each is scored alone.
        all_cores: the same for the scorer on all cores, as mrnn evaluate runs it.
        against_batches: the same where 256 pairs are rows of one call.
        peak_mb: the highest resident memory of the process.
    """

    images: int
    sentences: int
    branches: int
    scorer_gflops: float
    product_gflops: float
    share: float
    against_pairs: float
    all_cores: float
    against_batches: float
    peak_mb: float


def measure(captioner: Captioner, said: list[tuple[int, ...]], repeats: int) -> Rates:
    """Let the scorer, the plain product and both ways pair by pair take turns."""
    random = np.random.default_rng(0)
    images = noise(captioner, IMAGES, random)
    scorer = load_scorer(captioner.model, said)
    assert scorer.readout is not None, "the bundle holds no readout"
    branches, vocabulary = len(scorer.sentences.tokens), captioner.model.vocabulary_size
    width = images.inputs[captioner.bundle.image_inputs[0]].shape[1]
    rows = random.standard_normal((_ROWS, width)).astype(np.float32)
    matrix = random.standard_normal((vocabulary, width)).astype(np.float32).T
    out = np.empty((_ROWS, vocabulary), np.float32)
    some = [(i % IMAGES, said[i % len(said)]) for i in range(256)]
    workers = cores()
    times = in_turns(
        repeats,
        lambda: scorer.log_probs(images),
        lambda: list(on_all_cores(scorer.log_probs, [images] * workers, "")),
        lambda: [np.matmul(rows, matrix, out=out) for _ in range(20)],
        lambda: [log_probs(captioner.model, images, [pair]) for pair in some[:PAIRS]],
        lambda: log_probs(captioner.model, images, some),
    )
    ours, shared, product, pairs, batch = map(statistics.median, times)
    each = 2 * width * vocabulary / 1e9
    mine, theirs = each * branches * IMAGES / ours, each * _ROWS * 20 / product
    pair = ours / (IMAGES * len(said))
    pair_shared = shared / (IMAGES * len(said) * workers)
    return Rates(
        images=IMAGES,
        sentences=len(said),
        branches=branches,
        scorer_gflops=round(mine, 1),
        product_gflops=round(theirs, 1),
        share=round(mine / theirs, 3),
        against_pairs=round(pairs / PAIRS / pair, 1),
        all_cores=round(pairs / PAIRS / pair_shared, 1),
        against_batches=round(batch / len(some) / pair, 1),
        peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    )


def sample(captioner: Captioner, count: int, random: np.random.Generator) -> list[tuple[int, ...]]:
    """Return different sentences, as the model would say them of noise."""
    options = captioner.options(n_best=20)
    sentences: dict[tuple[int, ...], None] = {}
    while len(sentences) < count:
        some = noise(captioner, 8, random)
        for row in captioner.decode(some, decoder="sample", options=options):
            sentences |= {candidate.tokens: None for candidate in row}
    return list(sentences)[:count]


def noise(captioner: Captioner, count: int, random: np.random.Generator) -> EncodedImages:
    """Return encoded images of coarse noise."""
    size = captioner.bundle.preprocess
    coarse = random.integers(0, 256, (count, 5, 5, 3), np.uint8)
    rows = np.arange(size.height) * 5 // size.height
    columns = np.arange(size.width) * 5 // size.width
    return captioner.encoder.encode(coarse[:, rows][:, :, columns])


def main() -> None:
    """Measure, print and, where wanted, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="flickr8k")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--dataset", default="flickr8k")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    captioner = load(arguments.model, provider="cpu", threads=1)
    if arguments.root:
        examples = datasets.read(arguments.dataset, arguments.root, "test")
        captions = [caption for example in examples for caption in example.captions]
        ids = [tuple(captioner.vocabulary.encode(caption)) for caption in captions]
        said = [words for words in ids if words][: arguments.sentences]
    else:
        said = sample(captioner, arguments.sentences, np.random.default_rng(0))
    rates = asdict(measure(captioner, said, arguments.repeats))
    for name, value in rates.items():
        print(f"{name:16} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
