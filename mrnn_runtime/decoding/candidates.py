"""Encoded images in, the best candidates out: a decoder proposes, a reranker may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mrnn_runtime.plugins.contracts import Explainer, blaming
from mrnn_runtime.types import CaptionCandidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mrnn_runtime.decoding.confidence import Calibration
    from mrnn_runtime.plugins.contracts import Decoder, Reranker, StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages, Neighbour


@dataclass(frozen=True, slots=True)
class CaptionSearch:
    """A decoder and its options, and perhaps a reranker: all that one run needs beside the model.

    Attributes:
        decoder_name: what users call the decoder.
        decoder: proposes candidates.
        options: how it searches.
        n_best: how many candidates of an image are returned, at most.
        reranker_name: what users call the reranker, or None.
        reranker: chooses among the candidates, or None.
        explain: whether to ask the reranker who voted.
        calibration: what makes a confidence of the candidates, or None.
    """

    decoder_name: str
    decoder: Decoder
    options: DecodeOptions
    n_best: int
    reranker_name: str | None = None
    reranker: Reranker | None = None
    explain: bool = False
    calibration: Calibration | None = None

    def within(self, spent: float) -> CaptionSearch:
        """Return the search with what is left of its deadline after ``spent`` seconds."""
        limit = self.options.deadline_ms
        if not limit:
            return self
        left = max(1, limit - round(1000 * spent))
        return replace(self, options=replace(self.options, deadline_ms=left))

    def decode(self, model: StepModel, images: EncodedImages) -> list[list[Candidate]]:
        """Return the candidates of each image in the decoder's order, at least one.

        Raises:
            PluginError: the decoder fails, or breaks its contract.
        """
        with blaming(f"decoder {self.decoder_name!r}"):
            candidates = self.decoder.decode(model, images, self.options)
            if [bool(row) for row in candidates] != [True] * len(images):
                raise ValueError(f"it must give candidates for each of {len(images)} images")
        return candidates

    def run(
        self, model: StepModel, images: EncodedImages, wording: Callable[[Sequence[int]], str]
    ) -> list[tuple[tuple[CaptionCandidate, ...], tuple[Neighbour, ...]]]:
        """Return for each image the n best candidates, best first, and who voted.

        Args:
            model: the language half.
            images: n images.
            wording: token ids to text.

        Raises:
            PluginError: the decoder or the reranker fails, or breaks its contract.
        """
        decoded = self.decode(model, images)
        scores: Sequence[Sequence[float | None]] = [[None] * len(row) for row in decoded]
        neighbours: Sequence[Sequence[Neighbour]] = [()] * len(decoded)
        if self.reranker is not None:
            name = self.reranker_name or ""
            scores, neighbours = rerank(name, self.reranker, images, decoded, explain=self.explain)
        return [
            (self._best(row, its_scores, feature, wording), tuple(votes))
            for row, its_scores, feature, votes in zip(
                decoded, scores, images.reference_feature, neighbours, strict=True
            )
        ]

    def _best(
        self,
        candidates: Sequence[Candidate],
        scores: Sequence[float | None],
        feature: NDArray[np.float32],
        wording: Callable[[Sequence[int]], str],
    ) -> tuple[CaptionCandidate, ...]:
        """Put the n best candidates of an image into words; equal scores keep their order."""
        order = sorted(range(len(candidates)), key=lambda i: -(scores[i] or 0.0))
        return tuple(
            CaptionCandidate(
                caption=wording(candidates[i].tokens),
                log_prob=float(candidates[i].log_prob),
                score=float(candidates[i].score),
                finished=candidates[i].finished,
                rank=i + 1,
                rerank_score=scores[i],
                confidence=self.calibration.confidence(candidates[i], feature)
                if self.calibration
                else None,
            )
            for i in order[: self.n_best]
        )


def rerank(
    name: str,
    reranker: Reranker,
    images: EncodedImages,
    candidates: Sequence[Sequence[Candidate]],
    *,
    explain: bool = False,
) -> tuple[list[list[float]], Sequence[Sequence[Neighbour]]]:
    """Return what the reranker ``name`` gives each candidate, and per image who voted.

    Nobody did where no explanation is wanted, or the reranker has none.

    Raises:
        PluginError: it fails, or does not give one finite number each.
    """
    neighbours: Sequence[Sequence[Neighbour]] = [()] * len(candidates)
    with blaming(f"reranker {name!r}"):
        if explain and isinstance(reranker, Explainer):
            given, neighbours = reranker.explain(images, candidates)
        else:
            given = reranker.score(images, candidates)
        scores = [[float(number) for number in row] for row in given]
        if [len(row) for row in scores] != [len(row) for row in candidates]:
            raise ValueError("it must give one score for each candidate")
        if not all(math.isfinite(number) for row in scores for number in row):
            raise ValueError("scores must be finite")
    return scores, neighbours
