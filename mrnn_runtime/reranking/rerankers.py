"""The rerankers that every installation has."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mrnn_runtime.reranking.references import load_references
from mrnn_runtime.reranking.similarity import bleu_f1, cider_d, mean_of_largest
from mrnn_runtime.types import Neighbour

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.reranking.references import References
    from mrnn_runtime.reranking.similarity import ReferenceCaptions
    from mrnn_runtime.types import Candidate, EncodedImages, RerankOptions

    Similarity = Callable[[Sequence[Sequence[int]], ReferenceCaptions], NDArray[np.float64]]

# A reference closer to a photo than this share of the photo's feature is the photo itself: saved
# anew, perhaps, or encoded on another device.
SAME_PHOTO = 0.01

_log = logging.getLogger(__name__)


def consensus_cider(bundle: Bundle, options: RerankOptions) -> Consensus:
    """Prefer what agrees, by CIDEr-D, with what people said about similar photos.

    Raises:
        BundleError: there are no references, or they are damaged or another model's.
    """
    references = load_references(bundle, options.references)
    similarity = partial(cider_d, frequencies=references.frequencies)
    return _consensus(bundle, references, similarity, options, m=125)


def consensus_bleu(bundle: Bundle, options: RerankOptions) -> Consensus:
    """Prefer what agrees, by the F1 of n-grams, with what people said about similar photos.

    Raises:
        BundleError: there are no references, or they are damaged or another model's.
    """
    return _consensus(bundle, load_references(bundle, options.references), bleu_f1, options, m=175)


def _consensus(
    bundle: Bundle,
    references: References,
    similarity: Similarity,
    options: RerankOptions,
    *,
    m: int,
) -> Consensus:
    return Consensus(
        references,
        similarity,
        k=options.k or 60,
        m=options.m or m,
        leave_one_out=options.leave_one_out,
        # The caller has asked for neither what a bundle records nor what stands here.
        asked_k=options.k not in {None, *(own.k for own in bundle.rerank_options.values())},
        asked_m=options.m not in {None, *(own.m for own in bundle.rerank_options.values())},
    )


class Consensus:
    """The mean of the m largest similarities to the captions of the k nearest references.

    Fulfils ``Reranker`` and ``Explainer``.
    """

    def __init__(
        self,
        references: References,
        similarity: Similarity,
        *,
        k: int,
        m: int,
        leave_one_out: bool = False,
        asked_k: bool = True,
        asked_m: bool = True,
    ) -> None:
        """Ask references.

        Args:
            references: photos, and what people said about them.
            similarity: of hypotheses to captions, [h, c].
            k: how many references vote.
            m: how many similarities count.
            leave_one_out: whether a reference that is the photo itself has no vote.
            asked_k: whether to warn where there are fewer than k references.
            asked_m: whether to warn where these have fewer than m captions.
        """
        self._references = references
        self._similarity = similarity
        self._k, self._m = k, m
        self._leave_out = SAME_PHOTO if leave_one_out else 0.0
        self._warns = asked_m
        if asked_k and k > len(references):
            _log.warning(
                "there are only %d reference photos, fewer than --neighbours %d; all of them vote",
                len(references),
                k,
            )

    def score(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        """Return the consensus score of each candidate; 0 where no reference has a vote."""
        return self._scores(self._nearest(images), candidates)

    def explain(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> tuple[list[list[float]], list[list[Neighbour]]]:
        """Return the scores, and per image the references that vote, the nearest first."""
        names, nearest = self._references.images, self._nearest(images)
        neighbours = [
            [Neighbour(names[row], float(distance)) for row, distance in zip(*pair, strict=True)]
            for pair in nearest
        ]
        return self._scores(nearest, candidates), neighbours

    def _scores(
        self,
        nearest: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
        candidates: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        return [
            self._score(rows, [candidate.tokens for candidate in row])
            for (rows, _), row in zip(nearest, candidates, strict=True)
        ]

    def _nearest(
        self, images: EncodedImages
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        return self._references.nearest(
            images.reference_feature, self._k, leave_out=self._leave_out
        )

    def _score(self, rows: NDArray[np.int64], hypotheses: Sequence[Sequence[int]]) -> list[float]:
        captions = self._references.captions_of(rows)
        if not hypotheses or not len(captions):
            return [0.0] * len(hypotheses)
        if self._warns and len(captions) < self._m:
            self._warns = False
            _log.warning(
                "the %d nearest reference photos have only %d captions, fewer than --votes %d; all"
                " of them count",
                len(rows),
                len(captions),
                self._m,
            )
        return mean_of_largest(self._similarity(hypotheses, captions), self._m)


def log_prob(bundle: Bundle, options: RerankOptions) -> Likelihood:
    """Prefer what the model finds most likely."""
    return Likelihood(per_word=False)


def length_normalised(bundle: Bundle, options: RerankOptions) -> Likelihood:
    """Prefer what the model finds most likely word by word, so that length costs nothing."""
    return Likelihood(per_word=True)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What the model itself thinks; fulfils ``Reranker``.

    Attributes:
        per_word: whether the log-probability counts, or its mean over words and end sign.
    """

    per_word: bool

    def score(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        """Return the score of each candidate."""
        return [[self._score(candidate) for candidate in row] for row in candidates]

    def _score(self, candidate: Candidate) -> float:
        tokens = len(candidate.tokens) + candidate.finished if self.per_word else 1
        return float(candidate.log_prob) / tokens
