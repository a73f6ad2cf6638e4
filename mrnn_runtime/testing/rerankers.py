"""What every reranker promises, as checks; each takes the target, its arguments in it.

A check makes the reranker new; letters in shapes: n images, d feature size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime.contracts import Reranker
from mrnn_runtime.testing.checks import require
from mrnn_runtime.types import Candidate, EncodedImages

if TYPE_CHECKING:
    from collections.abc import Callable
    from functools import partial

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
        found = make().score(images.take(np.array(order)), [candidates[i] for i in order])
        for i, row in zip(order, found, strict=True):
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


def _case(make: Make) -> tuple[EncodedImages, list[list[Candidate]]]:
    """Return four made-up images as the bundle's encoder returns them, and candidates for each."""
    bundle, _ = make.args
    random = np.random.default_rng(0)
    arrays = {
        tensor.name: random.standard_normal((4, *tensor.shape[1:])).astype(np.float32)
        for tensor in bundle.encoder.outputs
    }
    images = EncodedImages(inputs=arrays, reference_feature=arrays["reference_feature"])
    eos = bundle.tokens.eos
    words = [i for i in range(bundle.vocabulary_size) if i not in (*bundle.tokens.never, eos)]
    candidates = []
    for count in (3, 1, 5, 2):
        row = [tuple(random.choice(words, length).tolist()) for length in range(1, count + 1)]
        candidates.append([Candidate(tokens, -1.5, -1.5, finished=True) for tokens in row])
    return images, candidates
