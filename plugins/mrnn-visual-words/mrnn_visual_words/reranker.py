"""Candidates are ranked by their words, taken one by one: what does a word say about this photo?"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime import load_references

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import Bundle, Candidate, EncodedImages, RerankOptions

NEIGHBOURS = 20
# A reference nearer than this share of the photo's feature is the photo itself, as in consensus.
SAME_PHOTO = 0.01
# An n-gram of the references holds 16 bits a word, its id plus one, the first word in the lowest.
_FIRST_WORD = np.uint64(0xFFFF)


class VisualWords:
    """The log-probability, plus what each word is worth.

        score = log_prob + sum over the different words w of ln((n(w) + 1) / (k p(w) + 1))

    n(w) of the k nearest reference photos have w in one of their captions; of all references, a
    share of p(w) has. A word that the neighbours use more than others do is rewarded, one that they
    would be expected to use and do not is punished, and "a" or "the", which everybody uses, counts
    for nothing without a list of such words. Fulfils ``mrnn_runtime.Reranker``.
    """

    def __init__(self, bundle: Bundle, options: RerankOptions) -> None:
        """Open the references; of the options, m has no meaning here.

        Raises:
            BundleError: there are no references, or they are damaged or another model's.
        """
        self._references = load_references(bundle, options.references)
        self._k = options.k or NEIGHBOURS
        self._leave_out = SAME_PHOTO if options.leave_one_out else 0.0

    def score(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        """Return the score of each candidate."""
        neighbours = self._references.nearest(
            images.reference_feature, self._k, leave_out=self._leave_out
        )
        return [
            self._score(rows, row) for (rows, _), row in zip(neighbours, candidates, strict=True)
        ]

    def _score(self, rows: NDArray[np.int64], candidates: Sequence[Candidate]) -> list[float]:
        said = Counter(word for row in rows for word in self._words_of(row))
        words = sorted({word for candidate in candidates for word in candidate.tokens})
        weights = self._references.frequencies.weights(np.array(words, np.uint64) + np.uint64(1))
        worth = {
            word: math.log((said[word] + 1) / (len(rows) * math.exp(-weight) + 1))
            for word, weight in zip(words, weights.tolist(), strict=True)
        }
        return [
            float(candidate.log_prob) + math.fsum(worth[word] for word in {*candidate.tokens})
            for candidate in candidates
        ]

    def _words_of(self, row: np.int64) -> set[int]:
        """Return the ids of all words that are said about one reference photo."""
        ngrams = self._references.captions_of(np.array([row])).ngrams
        return set((np.unique(ngrams & _FIRST_WORD).astype(np.int64) - 1).tolist())
