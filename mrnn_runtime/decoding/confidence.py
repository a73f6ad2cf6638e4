"""How probable it is that a caption is a good one, from what the search found beside it.

A bundle that was calibrated (``mrnn calibrate``) says what to make of the signals below.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mrnn_runtime.types import Candidate, DecodeOptions

SIGNALS = ("per_word", "agreement", "length")


@dataclass(frozen=True, slots=True)
class Calibration:
    """P(good) = 1 / (1 + exp(-(bias + sum of weight times signal))), for one way to search.

    Attributes:
        decoder: the decoder that it was fitted on; the captions of others have no confidence.
        beam_size: likewise.
        good: a caption is good whose CIDEr-D with what people said is at least this.
        bias: the constant term.
        weights: of signals, by name.
        threshold: below it a caption is better not shown, by default.
    """

    decoder: str
    beam_size: int
    good: float
    bias: float
    weights: Mapping[str, float]
    threshold: float

    def fits(self, decoder: str, options: DecodeOptions) -> bool:
        """Say whether it holds for a search."""
        return decoder == self.decoder and options.beam_size == self.beam_size

    def confidence(self, best: Candidate, candidates: Sequence[Candidate]) -> float:
        """Return P(good) of one of an image's candidates, 0..1."""
        found = signals(best, candidates)
        total = self.bias + sum(weight * found[name] for name, weight in self.weights.items())
        return 0.5 * (1.0 + math.tanh(total / 2.0))


def signals(best: Candidate, candidates: Sequence[Candidate]) -> dict[str, float]:
    """Return what may say how good a candidate is.

    Args:
        best: the candidate.
        candidates: all that the decoder kept for the image, ``best`` among them.

    Returns:
        By name. ``per_word``: mean log-probability of words and end sign. ``agreement``: mean F1 of
        shared pairs of words with the other candidates, 0..1. ``length``: words.
    """
    others = [one.tokens for one in candidates if one.tokens != best.tokens]
    shared = [_pairs_f1(best.tokens, other) for other in others]
    return {
        "per_word": best.log_prob / (len(best.tokens) + best.finished),
        "agreement": sum(shared) / len(shared) if shared else 1.0,
        "length": float(len(best.tokens)),
    }


def _pairs_f1(one: Sequence[int], other: Sequence[int]) -> float:
    pairs, others = (Counter(pairwise(tokens)) for tokens in (one, other))
    total = pairs.total() + others.total()
    return 2 * (pairs & others).total() / total if total else float(one == other)
