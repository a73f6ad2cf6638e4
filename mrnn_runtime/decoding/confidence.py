"""How probable it is that a caption is a good one, from its log-probability and the image.

A bundle that was calibrated (``mrnn calibrate``) says what to make of the signals below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mrnn_runtime.types import Candidate, DecodeOptions

SIGNALS = ("per_word", "length", "image")


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

    def confidence(self, candidate: Candidate, feature: NDArray[np.float32]) -> float:
        """Return P(good) of a candidate, 0..1; see ``signals``."""
        values = signals(candidate, feature)
        total = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
        return round(0.5 * (1.0 + math.tanh(total / 2.0)), 6)


def signals(candidate: Candidate, feature: NDArray[np.float32]) -> dict[str, float]:
    """Return what may say how good a candidate is.

    Args:
        candidate: the caption.
        feature: the image's reference_feature, float32 [d].

    Returns:
        By name. ``per_word``: mean log-probability of words and end sign. ``length``: words.
        ``image``: mean square of the feature; the m-RNN's is g2(V_I I), which is small where the
        image shows nothing that the net knows.
    """
    numbers = feature.astype(float)
    return {
        "per_word": candidate.log_prob / (len(candidate.tokens) + candidate.finished),
        "length": float(len(candidate.tokens)),
        "image": float(numbers @ numbers) / len(numbers),
    }
