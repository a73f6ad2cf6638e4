"""What every reranker promises, as checks; each takes the target, its arguments in it.

A check makes the reranker new; letters in shapes: n images, d feature size.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime import Candidate, EncodedImages, Reranker, RerankOptions, load_bundle
from mrnn_runtime.build import build_references, save_references
from mrnn_runtime.testing import require, tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from functools import partial

    from mrnn_runtime import Bundle

    Make = partial[Reranker]


def it_is_a_reranker(make: Make) -> None:
    """Its target takes a bundle and options and gives an object with ``score``."""
    require(isinstance(make(), Reranker), f"{make()!r} has no method score")


def every_candidate_gets_a_finite_number(make: Make) -> None:
    """One float a candidate, however many an image has."""
    images, candidates = _case(make)
    scores = make().score(images, candidates)
    sizes, wanted = [len(row) for row in scores], [len(row) for row in candidates]
    require(sizes == wanted, f"{sizes} scores for {wanted} candidates")
    for score in (score for row in scores for score in row):
        require(isinstance(score, float) and math.isfinite(score), f"{score!r} is no finite float")


def the_same_input_gives_the_same_output(make: Make) -> None:
    """From the same reranker as from a new one."""
    reranker, case = make(), _case(make)
    first = reranker.score(*case)
    require(first == reranker.score(*case), "a second call differs")
    require(first == make().score(*case), "a new reranker differs")


def no_image_depends_on_its_neighbours(make: Make) -> None:
    """Alone, among others and in another order its candidates get the same scores."""
    images, candidates = _case(make)
    together = make().score(images, candidates)
    for order in ([0], [3, 1], [2, 2, 0]):
        scores = make().score(images.take(np.array(order)), [candidates[i] for i in order])
        for i, row in zip(order, scores, strict=True):
            require(np.allclose(row, together[i], rtol=1e-4), f"image {i} among {order} differs")


def nothing_gives_nothing(make: Make) -> None:
    """No images, or an image without candidates, is no error."""
    images, _ = _case(make)
    require(make().score(images.take(np.array([], np.int64)), []) == [], "must be []")
    one = make().score(images.take(np.array([0])), [[]])
    require([list(row) for row in one] == [[]], "must be [[]]")


CHECKS: tuple[Callable[[Make], None], ...] = (
    it_is_a_reranker,
    every_candidate_gets_a_finite_number,
    the_same_input_gives_the_same_output,
    no_image_depends_on_its_neighbours,
    nothing_gives_nothing,
)


@contextmanager
def example(folder: Path | None) -> Iterator[tuple[Bundle, RerankOptions]]:
    """Give what a reranker is made of: this bundle, or the tiny one with made-up references."""
    if folder is not None:
        yield load_bundle(folder), RerankOptions()
        return
    # References are mapped into memory, and where files are in use they cannot be deleted.
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        bundle = load_bundle(tiny_bundle(Path(scratch, "bundle")))
        place = Path(scratch, "references")
        names = [f"{i}.jpg" for i in range(20)]
        features = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)
        captions = [
            [_words(bundle, i, count=6), _words(bundle, i + 20, count=4)] for i in range(20)
        ]
        references = build_references(names, features, captions, bundle.vocabulary_size)
        save_references(references, place, bundle, source="made up")
        yield bundle, RerankOptions(k=5, m=4, references=place)


def _words(bundle: Bundle, seed: int, count: int) -> list[int]:
    special = (*bundle.tokens.never, bundle.tokens.eos)
    words = [i for i in range(bundle.vocabulary_size) if i not in special]
    return [int(word) for word in np.random.default_rng(seed).choice(words, count)]


def _case(make: Make) -> tuple[EncodedImages, list[list[Candidate]]]:
    """Return four made-up images as the bundle's encoder returns them, and candidates for each."""
    bundle, _ = make.args
    random = np.random.default_rng(0)
    arrays = {
        tensor.name: random.standard_normal((4, *tensor.shape[1:])).astype(np.float32)
        for tensor in bundle.encoder.outputs
    }
    images = EncodedImages(inputs=arrays, reference_feature=arrays["reference_feature"])
    candidates = [
        [
            Candidate(tuple(_words(bundle, image, count)), -1.5, -1.5, finished=True)
            for count in range(1, 1 + most)
        ]
        for image, most in enumerate((3, 1, 5, 2))
    ]
    return images, candidates
