"""The captions that are being written, and those that are done.

Letters in shapes: n images, r rows (hypotheses of all images together), t words so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.types import DecodeOptions


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """Captions of equal length that may still grow: the rows of the next model step.

    Attributes:
        owner: int64 [r], whose hypothesis a row is: the index of its image (or of its sample).
        words: int64 [r, t], the words so far.
        log_prob: float64 [r], their natural log-probabilities, summed word by word in float64, so
            that the sum does not depend on what else is in the batch.
        state: the model's state before the last word was fed, r rows.
    """

    owner: NDArray[np.int64]
    words: NDArray[np.int64]
    log_prob: NDArray[np.float64]
    state: Any

    def __len__(self) -> int:
        """Return r."""
        return len(self.owner)

    @property
    def length(self) -> int:
        """The number of words so far, t."""
        return int(self.words.shape[1])

    def last(self, bos: int) -> NDArray[np.int64]:
        """Return the tokens to feed next, int64 [r]: the last words, at first ``bos``."""
        if self.length:
            return np.ascontiguousarray(self.words[:, -1])
        return np.full(len(self), bos, dtype=np.int64)

    def grow(
        self,
        rows: NDArray[np.int64] | None,
        tokens: NDArray[np.int64],
        log_prob: NDArray[np.float64],
        state: Any,  # noqa: ANN401 - opaque, the model's own
    ) -> Hypotheses:
        """Return the hypotheses that are one word longer.

        Args:
            rows: int64 [r'], which hypothesis each new one continues; any order, repeats allowed.
                None continues each as it stands, and copies no state.
            tokens: int64 [r'], the words to append.
            log_prob: float64 [r'], the new sums.
            state: the model's state of the r rows after their last word was fed.
        """
        owner, words = self.owner, self.words
        if rows is not None:
            owner, words, state = owner.take(rows), words.take(rows, axis=0), state.take(rows)
        words = np.concatenate([words, tokens[:, np.newaxis]], axis=1)
        return Hypotheses(owner, words, log_prob, state)


def make_candidate(
    words: Sequence[int], log_prob: float, *, finished: bool, length_penalty: float
) -> Candidate:
    """Return the candidate of these words, scored by log_prob / length ** length_penalty.

    The length counts the words and, of a finished caption, the end sign.
    """
    score = log_prob / float(len(words) + finished) ** length_penalty
    return Candidate(tokens=tuple(words), log_prob=log_prob, score=score, finished=finished)


def rank(candidates: Iterable[Candidate], n_best: int) -> list[Candidate]:
    """Return the ``n_best`` candidates, best first.

    Every finished caption stands before every unfinished one, then the higher score counts; of
    equal scores the shorter caption is first, then the one with the lower token ids.
    """
    order = sorted(candidates, key=lambda c: (not c.finished, -c.score, len(c.tokens), c.tokens))
    return order[:n_best]


def extend_to_end(
    rows: Hypotheses,
    choose: Callable[[Hypotheses], tuple[NDArray[np.int64], NDArray[np.float64], Any]],
    eos: int,
    options: DecodeOptions,
) -> list[Candidate]:
    """Let every row grow by one chosen token a step until each has ended.

    A row ends finished when the end sign is chosen. It ends unfinished when no token is allowed, or
    when it has ``max_length`` words and another word is chosen, which is not appended. Ended rows
    take no part in the steps that follow.

    Args:
        rows: what to start from; row i has owner i.
        choose: feeds the rows to the model; returns the token chosen for each row, int64 [r], its
            log-probability, float64 [r] (-inf where no token is allowed), and the model's new
            state.
        eos: the id of the end sign.
        options: ``max_length`` and ``length_penalty`` are read.

    Returns:
        One candidate a row, in order.
    """
    done: dict[int, Candidate] = {}
    while len(rows):
        tokens, gains, state = choose(rows)
        log_prob, alive = rows.log_prob + gains, None
        stuck = gains == -np.inf
        over = stuck | (tokens == eos)
        if rows.length == options.max_length:
            over[:] = True
        if over.any():
            for row in np.flatnonzero(over).tolist():
                finished = bool(tokens[row] == eos and not stuck[row])
                done[int(rows.owner[row])] = make_candidate(
                    rows.words[row].tolist(),
                    float(log_prob[row] if finished else rows.log_prob[row]),
                    finished=finished,
                    length_penalty=options.length_penalty,
                )
            alive = np.flatnonzero(~over)
            if not alive.size:
                break
            tokens, log_prob = tokens[alive], log_prob[alive]
        rows = rows.grow(alive, tokens, log_prob, state)
    return [done[owner] for owner in sorted(done)]
