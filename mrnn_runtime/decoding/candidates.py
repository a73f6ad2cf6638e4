"""Encoded images in, ranked candidates out: a decoder proposes, a reranker may choose."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mrnn_runtime.errors import MrnnError, PluginError, describe
from mrnn_runtime.plugins.contracts import Explainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mrnn_runtime.plugins.contracts import Decoder, Reranker, StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages, Neighbour


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate, its place in the decoder's order from 1, and the reranker's score."""

    candidate: Candidate
    rank: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found for one image, best first."""

    ranked: Sequence[Ranked] = ()
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """A decoder, its options and, perhaps, a reranker: what makes candidates of encoded images."""

    name: str
    decoder: Decoder
    options: DecodeOptions
    n_best: int
    ranking: str = ""
    reranker: Reranker | None = None
    explain: bool = False

    def within(self, spent: float) -> Search:
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
        with blaming(f"decoder {self.name!r}"):
            found = self.decoder.decode(model, images, self.options)
            if [bool(row) for row in found] != [True] * len(images):
                raise ValueError(f"it must give candidates for each of {len(images)} images")
        return found

    def run(self, model: StepModel, images: EncodedImages) -> list[Found]:
        """Return what is best for each image.

        Raises:
            PluginError: the decoder or the reranker fails, or breaks its contract.
        """
        rows = [
            [Ranked(candidate, rank) for rank, candidate in enumerate(row, start=1)]
            for row in self.decode(model, images)
        ]
        neighbours: Sequence[Sequence[Neighbour]] = [()] * len(rows)
        if self.reranker is not None:
            candidates = [[one.candidate for one in row] for row in rows]
            scores = score(self.ranking, self.reranker, images, candidates)
            rows = [_rank(*pair) for pair in zip(rows, scores, strict=True)]
            if self.explain and isinstance(self.reranker, Explainer):
                with blaming(f"reranker {self.ranking!r}"):
                    neighbours = self.reranker.explain(images)
        return [
            Found(row[: self.n_best], tuple(votes))
            for row, votes in zip(rows, neighbours, strict=True)
        ]


def score(
    name: str,
    reranker: Reranker,
    images: EncodedImages,
    candidates: Sequence[Sequence[Candidate]],
) -> list[list[float]]:
    """Return what the reranker ``name`` gives each candidate.

    Raises:
        PluginError: it fails, or does not give one finite number each.
    """
    with blaming(f"reranker {name!r}"):
        scores = [[float(number) for number in row] for row in reranker.score(images, candidates)]
        if [len(row) for row in scores] != [len(row) for row in candidates]:
            raise ValueError("it must give one score for each candidate")
        if not all(math.isfinite(number) for row in scores for number in row):
            raise ValueError("scores must be finite")
    return scores


def _rank(candidates: Sequence[Ranked], scores: Sequence[float]) -> list[Ranked]:
    """Sort candidates by score, the highest first; equal scores keep the decoder's order."""
    best_first = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [replace(candidates[i], score=scores[i]) for i in best_first]


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever a plugin raises, beside our own errors, into a PluginError that names it."""
    try:
        yield
    except MrnnError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} failed: {describe(error)}",
            hint="report it to the author of the plugin; mrnn plugins says who that is",
        ) from error
