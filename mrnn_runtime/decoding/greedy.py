"""Greedy search: the best allowed token at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.decoding.constraints import Constraints
from mrnn_runtime.decoding.hypotheses import Hypotheses, extend_to_end

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrnn_runtime.plugins.contracts import StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages


class Greedy:
    """Keeps one hypothesis an image and returns one candidate, whatever ``n_best`` says.

    After ``max_length`` words one more step is made: if the end sign is the best allowed token
    there, the caption is finished, else it is cut. Equals beam search of beam size 1.
    """

    def decode(
        self, model: StepModel, images: EncodedImages, options: DecodeOptions
    ) -> list[list[Candidate]]:
        """Return per image a list of one candidate.

        Raises:
            UsageError: the options do not fit the model's vocabulary.
            BundleError: the model's log-probabilities are not finite.
        """
        if not len(images):
            return []
        constraints = Constraints.of(model, options)

        def choose(rows: Hypotheses) -> tuple[NDArray[np.int64], NDArray[np.float64], Any]:
            ids, log_probs, state = constraints.best(rows, 1)
            row, first = np.arange(len(rows)), log_probs.argmax(axis=1)
            return ids[row, first], log_probs[row, first], state

        captions = extend_to_end(constraints.begin(images), choose, model.tokens.eos, options)
        return [[caption] for caption in captions]
