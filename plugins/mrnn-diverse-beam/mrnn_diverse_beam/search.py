"""Diverse beam search (Vijayakumar et al., 2016) over all images of a batch at once.

Letters in shapes: r rows (the live hypotheses of all groups of all images), k best of a row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime import UsageError
from mrnn_runtime.decoding import Constraints, make_candidate, rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_runtime import Candidate, DecodeOptions, EncodedImages, StepModel
    from mrnn_runtime.decoding import Hypotheses


class DiverseBeam:
    """Splits the beam into groups, each a beam search of its own that avoids the earlier ones.

    At every step the groups choose one after the other. A group ranks its continuations by

        log_prob(hypothesis) + log_prob(token) - strength * n(token),

    where n(token) counts how often the groups before it have appended that token at this step
    (Hamming diversity). <eos> costs nothing: a caption may end where another one does. The
    penalty is of one step: it is part of no hypothesis' log-probability and of no score.

    ``beam_size`` is the size of all groups together; they differ by at most one hypothesis. Each
    ends as beam search does, when it holds as many finished captions as its size, all at least as
    probable as its live hypotheses, or at ``max_length``. The candidates are the captions of all
    groups, each once, ranked as every decoder ranks. One group is plain beam search.
    """

    def __init__(self, groups: int = 5, strength: float = 0.5) -> None:
        """Choose how diverse; the defaults are what ``--decoder diverse-beam`` means.

        Args:
            groups: at most ``beam_size`` of them are made.
            strength: lambda, the penalty; 0 lets every group search alike.

        Raises:
            UsageError: a value is out of range.
        """
        if groups < 1:
            raise UsageError(f"groups must be at least 1, not {groups}")
        if not 0 <= strength < float("inf"):
            raise UsageError(f"strength must be a number >= 0, not {strength}")
        self._groups = groups
        self._strength = strength

    def decode(
        self, model: StepModel, images: EncodedImages, options: DecodeOptions
    ) -> list[list[Candidate]]:
        """Return per image its best candidates: at least one, at most ``n_best``.

        Raises:
            UsageError: the options do not fit the model's vocabulary.
        """
        if not len(images):
            return []
        constraints = Constraints.of(model, options)
        rows = constraints.begin(images)
        sizes = _sizes(options.beam_size, self._groups)
        beams = [[_Group(size, [image]) for size in sizes] for image in range(len(images))]
        while True:
            # One row gives at most one <eos>; all groups together penalise fewer words than
            # ``beam_size``. So these hold the best words of any group.
            ids, gains, state = constraints.best(rows, options.beam_size + 1)
            step = _Step(rows, ids.tolist(), gains.tolist(), model.tokens.eos, options)
            grown: list[_Continuation] = []
            for groups in beams:
                said: Counter[int] = Counter()
                for group in groups:
                    chosen = group.advance(step, said, self._strength)
                    said.update(one.token for one in chosen)
                    group.rows = list(range(len(grown), len(grown) + len(chosen)))
                    grown += chosen
            if not grown:
                return [_best(groups, options.n_best) for groups in beams]
            rows = rows.grow(
                np.array([one.row for one in grown], dtype=np.int64),
                np.array([one.token for one in grown], dtype=np.int64),
                np.array([one.log_prob for one in grown]),
                state,
            )


@dataclass(frozen=True, slots=True)
class _Continuation:
    """A row, the token that may follow it, and the sum of log-probabilities with that token."""

    row: int
    token: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class _Step:
    """What the model said of every row.

    Attributes:
        rows: r hypotheses.
        ids: per row its k best tokens.
        gains: per row their log-probabilities, -inf where forbidden.
        eos: the id of <eos>.
        options: the options.
    """

    rows: Hypotheses
    ids: list[list[int]]
    gains: list[list[float]]
    eos: int
    options: DecodeOptions

    def candidate(self, row: int, log_prob: float, *, finished: bool) -> Candidate:
        """Return the caption that ends here."""
        return make_candidate(
            self.rows.words[row].tolist(),
            log_prob,
            finished=finished,
            length_penalty=self.options.length_penalty,
        )


@dataclass(slots=True)
class _Group:
    """One group of one image.

    Attributes:
        size: how many hypotheses it keeps.
        rows: where its live hypotheses are, best first; groups of an image start from the same row.
        candidates: its captions that are done.
        ended: the log-probabilities of the best ``size`` finished ones, rising.
    """

    size: int
    rows: list[int]
    candidates: list[Candidate] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def advance(self, step: _Step, said: Counter[int], strength: float) -> list[_Continuation]:
        """Take in the captions that end at this step; return those that go on, best first.

        Args:
            step: what the model said.
            said: how often the groups before this one have appended a token at this step.
            strength: the penalty per time.
        """
        ranked = self._ranked(step, said, strength)
        full = step.rows.length == step.options.max_length
        ends = {one.row: one.log_prob for one in ranked[: self.size] if one.token == step.eos}
        for row, log_prob in ends.items():
            self.candidates.append(step.candidate(row, log_prob, finished=True))
        self.ended = sorted([*self.ended, *ends.values()])[-self.size :]
        for row in self.rows:
            stuck = max(step.gains[row]) == -np.inf
            if stuck or (full and row not in ends):
                log_prob = float(step.rows.log_prob[row])
                self.candidates.append(step.candidate(row, log_prob, finished=False))
        live = [one for one in ranked if one.token != step.eos][: self.size]
        if full or not live:
            return []
        best = max(one.log_prob for one in live)
        done = len(self.ended) == self.size and self.ended[0] >= best
        return [] if done else live

    def _ranked(self, step: _Step, said: Counter[int], strength: float) -> list[_Continuation]:
        """Return what may follow, best first; ties as in beam search: row, then token."""
        order = []
        for place, row in enumerate(self.rows):
            before = float(step.rows.log_prob[row])
            for column, gain in enumerate(step.gains[row]):
                if gain > -np.inf:
                    token = step.ids[row][column]
                    penalty = strength * said[token] if token != step.eos else 0.0
                    order.append((penalty - before - gain, place, column, before + gain))
        return [
            _Continuation(self.rows[place], step.ids[self.rows[place]][column], log_prob)
            for _, place, column, log_prob in sorted(order)[: 2 * self.size]
        ]


def _sizes(beam_size: int, groups: int) -> list[int]:
    """Split a beam into groups whose sizes differ by at most one, the larger ones first."""
    count = min(beam_size, groups)
    return [beam_size // count + (place < beam_size % count) for place in range(count)]


def _best(groups: Sequence[_Group], n_best: int) -> list[Candidate]:
    """Return the best captions of all groups; one that several found counts once."""
    candidates = [one for group in groups for one in group.candidates]
    unique: dict[tuple[int, ...], Candidate] = {}
    for one in rank(candidates, len(candidates)):
        unique.setdefault(one.tokens, one)
    return list(unique.values())[:n_best]
