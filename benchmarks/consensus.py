"""How fast consensus reranking is: against pycocoevalcap, and against the caption it belongs to.

    python benchmarks/consensus.py [--model NAME|DIR] [--large] [--repeats N] [--json FILE]

The references are made up: 6,000 images with 512 numbers and five captions each, words drawn as
often as in a corpus of that size. With a model, references of its own feature size and vocabulary
are made up instead, and its captions are timed, with a beam of ten, with and without reranking; its
untrained or trained weights take the same time. Both sides have one thread and take turns in one
process, so their ratio is worth more than their times.

--large searches 1,000,000 images of 256 numbers in a file, and reports the resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image
from pycocoevalcap.cider.cider_scorer import CiderScorer
from turns import in_turns

from mrnn_runtime import RerankOptions, load
from mrnn_runtime.build import build_references
from mrnn_runtime.reranking.neighbours import Features, nearest
from mrnn_runtime.reranking.references import save_references
from mrnn_runtime.reranking.similarity import bleu_f1, cider_d, mean_of_largest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.reranking.references import References

IMAGES, SENTENCES, FEATURE = 6000, 5, 512
VOCABULARY, WORDS = 2542, 7692  # of the model, and of what people say
HYPOTHESES, NEIGHBOURS, LARGEST = 10, 60, 125
LARGE = (1_000_000, 256)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        what: was measured.
        ours: median of its times, in ms.
        other: median of what it is compared with, in ms, or None.
        against: what that is.
        ratio: how many times the other one takes, or None.
    """

    what: str
    ours: float
    other: float | None = None
    against: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as long the other one takes."""
        return None if self.other is None else self.other / self.ours


class Loaded(list[list[dict[tuple[str, ...], int]]]):
    """pycocoevalcap's references; the scorer takes their number for that of all images."""

    def __len__(self) -> int:
        """Return the number of images that the frequencies come from."""
        return IMAGES


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", help="also time captions of this model")
    parser.add_argument("--large", action="store_true", help="also search a million images")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures as JSON too")
    args = parser.parse_args()
    rows = against_pycocoevalcap(args.repeats)
    if args.model:
        rows += against_the_caption(args.model, args.repeats)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:8.1f} x"
        other = "" if row.other is None else f"{row.other:10.2f} ms {row.against}"
        print(f"{row.what:44} {row.ours:10.2f} ms {ratio:10} {other}")
    figures = {
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
        "repeats": args.repeats,
        "machine": platform.machine(),
        "numpy": np.__version__,
    }
    if args.large:
        figures["large"] = search_a_million()
        print(json.dumps(figures["large"]))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def against_pycocoevalcap(repeats: int) -> list[Row]:
    """Score ten hypotheses with 300 captions, both ways."""
    random = np.random.default_rng(0)
    references, said = make_references(random, FEATURE, VOCABULARY)
    photo = np.tanh(random.standard_normal((1, FEATURE))).astype(np.float32)
    photos = np.tanh(random.standard_normal((8, FEATURE))).astype(np.float32)
    ((rows, _),) = references.nearest(photo, NEIGHBOURS)
    captions = references.captions_of(rows)
    hypotheses = [sentence(random, VOCABULARY) for _ in range(HYPOTHESES)]
    texts = [text(words) for words in hypotheses]
    group = [text(words) for row in rows for words in said[row]]
    counter = CiderScorer()
    for sentences in said:
        counter += ("", [text(words) for words in sentences])
    counter.compute_doc_freq()

    def theirs() -> list[float]:
        scorer = CiderScorer()
        for hypothesis in texts:
            scorer += (hypothesis, group)
        scorer.document_frequency = counter.document_frequency
        scorer.crefs = Loaded(scorer.crefs)
        return list(scorer.compute_cider())

    def ours() -> NDArray[np.float64]:
        return cider_d(hypotheses, captions, references.frequencies)

    difference = np.abs(ours().mean(axis=1) - theirs()).max()
    assert difference < 1e-6, f"the scores differ by {difference}"

    def whole() -> list[float]:
        ((near, _),) = references.nearest(photo, NEIGHBOURS)
        similarities = cider_d(hypotheses, references.captions_of(near), references.frequencies)
        return mean_of_largest(similarities, LARGEST)

    mine, other, bleu, one, eight, all_of_it = milliseconds(
        repeats,
        ours,
        theirs,
        lambda: bleu_f1(hypotheses, captions),
        lambda: references.nearest(photo, NEIGHBOURS),
        lambda: references.nearest(photos, NEIGHBOURS),
        whole,
    )
    return [
        Row(f"CIDEr-D, {HYPOTHESES} x {len(captions)}", mine, other, "pycocoevalcap"),
        Row(f"BLEU, {HYPOTHESES} x {len(captions)}", bleu),
        Row(f"{NEIGHBOURS} neighbours of one photo", one),
        Row(f"{NEIGHBOURS} neighbours of eight photos, each", eight / 8),
        Row("consensus of one photo, all of it", all_of_it),
    ]


def against_the_caption(model: str, repeats: int) -> list[Row]:
    """Caption a photo with a beam of ten, with and without consensus."""
    random = np.random.default_rng(0)
    captioner = load(model, provider="cpu", threads=1)
    bundle = captioner.bundle
    size = next(t.shape[1] for t in bundle.encoder.outputs if t.name == "reference_feature")
    assert isinstance(size, int)
    references, _ = make_references(random, size, bundle.vocabulary_size)
    side = (bundle.preprocess.height, bundle.preprocess.width)
    with TemporaryDirectory() as scratch:
        folder, photo = Path(scratch, "references"), Path(scratch, "photo.jpg")
        save_references(references, folder, bundle, source="made up")
        Image.fromarray(random.integers(0, 256, (*side, 3), np.uint8)).save(photo)
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"references of {bundle.name}: {megabytes:.2f} MB")
        options = RerankOptions(references=folder)
        encoded = captioner.encoder.encode(np.zeros((1, *side, 3), np.uint8))
        decoding = captioner.options(beam_size=HYPOTHESES, n_best=HYPOTHESES)
        candidates = captioner.decode(encoded, options=decoding)
        search = captioner.search(None, "consensus-cider", options=decoding, rerank=options)
        reranker = search.reranker
        assert reranker is not None
        caption, consensus = milliseconds(
            repeats,
            lambda: list(captioner.caption(photo, beam_size=HYPOTHESES, reranker="none")),
            lambda: reranker.score(encoded, candidates),
        )
        (opening,) = milliseconds(
            repeats,
            # A captioner that is new has no reranker yet.
            lambda: replace(captioner).search(None, "consensus-cider", rerank=options),
        )
    return [
        Row("consensus of one photo", consensus, caption, "the caption, beam 10"),
        Row("opening the references, once", opening),
    ]


def search_a_million() -> dict[str, float]:
    """Search a file of features block by block, and say how much memory that takes."""
    count, size = LARGE
    random = np.random.default_rng(0)
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "features.npy")
        features = np.lib.format.open_memmap(path, "w+", np.int8, LARGE)
        for start in range(0, count, 50_000):
            features[start : start + 50_000] = random.integers(-127, 128, (50_000, size), np.int8)
        features.flush()
        del features
        features = np.load(path, mmap_mode="r")
        steps, squares = np.full(count, 0.01, np.float32), np.full(count, 137.0, np.float32)
        photos = random.standard_normal((8, size)).astype(np.float32)
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        before, began = resident(), time.perf_counter()
        nearest(Features(features, steps, squares), photos, NEIGHBOURS)
        seconds = time.perf_counter() - began
    return {
        "resident_MB_before": before,
        "resident_MB_highest": resident("VmHWM"),
        "ms_a_photo_of_8": seconds * 1000 / 8,
    }


def resident(field: str = "VmRSS") -> float:
    """Return the memory of this process in MB, as Linux counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1000
    return float("nan")


def milliseconds(repeats: int, *jobs: Callable[[], object]) -> list[float]:
    """Return the median time of each job in ms."""
    return [statistics.median(times) * 1000 for times in in_turns(repeats, *jobs)]


def make_references(
    random: np.random.Generator, size: int, vocabulary: int
) -> tuple[References, list[list[list[int]]]]:
    """Return references, and the captions in them as ids of words."""
    features = np.tanh(random.standard_normal((IMAGES, size))).astype(np.float32)
    said = [[sentence(random, WORDS) for _ in range(SENTENCES)] for _ in range(IMAGES)]
    names = [f"{i}.jpg" for i in range(IMAGES)]
    return build_references(names, features, said, vocabulary), said


def sentence(random: np.random.Generator, words: int) -> list[int]:
    """Return ids from 4 on, low ones more often, as words in a language are."""
    length = int(random.integers(7, 16))
    ids = np.exp(random.random(length) * np.log(words - 4)).astype(int) + 3
    return [int(word) for word in ids]


def text(words: Sequence[int]) -> str:
    """Return ids as a text of words."""
    return " ".join(map(str, words))


if __name__ == "__main__":
    main()
