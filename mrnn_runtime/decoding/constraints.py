"""Which tokens may follow: the one place where the options' rules meet the model's distribution.

Letters in shapes: n images, r rows, V vocabulary, k best, t words so far.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mrnn_runtime.decoding.hypotheses import Hypotheses
from mrnn_runtime.errors import BundleError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrnn_runtime.plugins.contracts import StepModel
    from mrnn_runtime.types import DecodeOptions, EncodedImages


@dataclass(frozen=True, slots=True)
class Constraints:
    """The rules of one call of decode, and model steps that keep them.

    Never allowed: pad, bos, unk and the banned tokens; before ``min_length`` words the end sign;
    words that would complete an n-gram of ``no_repeat_ngram`` words for the second time; after the
    deadline any token, once there is a word, and the model is not asked any more. Where a
    step returns log-probabilities, those of forbidden tokens are -inf and the others are the
    model's own: what is forbidden takes no probability with it and leaves none to the rest.

    Attributes:
        model: the step model.
        options: the options.
        never: bool [V], True for tokens that are forbidden at every place.
        early: bool [V], the same and the end sign: what is forbidden before ``min_length``.
        until: the deadline, on the clock of ``time.monotonic``.
    """

    model: StepModel
    options: DecodeOptions
    never: NDArray[np.bool_]
    early: NDArray[np.bool_]
    until: float = math.inf

    @classmethod
    def of(cls, model: StepModel, options: DecodeOptions) -> Self:
        """Return the rules that ``options`` mean for this model's vocabulary.

        Raises:
            UsageError: the options name tokens that the vocabulary does not have, start with a
                token that is no word, or ban every word.
        """
        size, tokens = model.vocabulary_size, model.tokens
        for name, ids in (("banned", options.banned), ("prefix", options.prefix)):
            if strange := sorted(token for token in set(ids) if token >= size):
                raise UsageError(
                    f"{name} has token ids {strange}, the vocabulary ends at {size - 1}"
                )
        if clash := set(options.prefix) & {*tokens.never, tokens.eos}:
            raise UsageError(f"prefix has token ids {sorted(clash)}, which are no words")
        never = np.zeros(size, dtype=np.bool_)
        never[[*tokens.never, *options.banned]] = True
        early = never.copy()
        early[tokens.eos] = True
        if early.all():
            raise UsageError(
                f"banned forbids all {size - 4} words of the vocabulary", hint="ban fewer words"
            )
        limit = options.deadline_ms
        until = time.monotonic() + limit / 1000 if limit else math.inf
        return cls(model, options, never, early, until)

    def begin(self, images: EncodedImages) -> Hypotheses:
        """Return one hypothesis an image: the options' prefix, with its log-probability."""
        count = len(images)
        rows = Hypotheses(
            owner=np.arange(count, dtype=np.int64),
            words=np.empty((count, 0), dtype=np.int64),
            log_prob=np.zeros(count),
            state=self.model.start(images),
        )
        for word in self.options.prefix:
            scores, state = self.model.step(
                rows.last(self.model.tokens.bos), rows.state, 0, full=True
            )
            gains = _numbers(scores.log_probs)[:, word]
            rows = rows.grow(
                None, np.full(count, word, dtype=np.int64), rows.log_prob + gains, state
            )
        return rows

    def best(
        self, rows: Hypotheses, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], Any]:
        """Feed the last words and find at least the ``count`` best allowed tokens of each row.

        The model is asked for as many tokens as are needed to be sure of that: ``count`` and as
        many as could be forbidden in one row.

        Returns:
            The tokens, int64 [r, k], by falling log-probability, of equal ones the lower id first;
            their log-probabilities, float64 [r, k], -inf where forbidden; the model's new state.
        """
        if self._is_late(rows):
            forbidden = np.full((len(rows), 1), -np.inf)
            return np.zeros((len(rows), 1), np.int64), forbidden, rows.state
        table, at, repeats = self._forbidden(rows.words)
        spare = int(np.count_nonzero(table)) + (int(np.bincount(at).max()) if at.size else 0)
        scores, state = self.model.step(
            rows.last(self.model.tokens.bos),
            rows.state,
            min(self.model.vocabulary_size, count + spare),
        )
        log_probs = _numbers(scores.values)
        np.copyto(log_probs, -np.inf, where=table.take(scores.ids))
        if at.size:
            pair, column = np.nonzero(scores.ids[at] == repeats[:, np.newaxis])
            log_probs[at[pair], column] = -np.inf
        return scores.ids, log_probs, state

    def every(self, rows: Hypotheses) -> tuple[NDArray[np.float64], Any]:
        """Feed the last words and return the whole distribution.

        Returns:
            The log-probabilities, float64 [r, V], -inf where forbidden; the model's new state.
        """
        if self._is_late(rows):
            return np.full((len(rows), self.model.vocabulary_size), -np.inf), rows.state
        table, at, repeats = self._forbidden(rows.words)
        scores, state = self.model.step(rows.last(self.model.tokens.bos), rows.state, 0, full=True)
        log_probs = _numbers(scores.log_probs)
        log_probs[:, table] = -np.inf
        log_probs[at, repeats] = -np.inf
        return log_probs, state

    def _is_late(self, rows: Hypotheses) -> bool:
        return rows.length > 0 and time.monotonic() >= self.until

    def _forbidden(
        self, words: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Return what may not follow ``words``, int64 [r, t].

        Returns:
            bool [V], what is forbidden in every row; and p pairs of a row, int64 [p], and a token
            that is forbidden there, int64 [p].
        """
        table = self.early if words.shape[1] < self.options.min_length else self.never
        size = self.options.no_repeat_ngram
        places = words.shape[1] - size + 1 if size else 0
        if places <= 0:
            none = np.empty(0, dtype=np.int64)
            return table, none, none
        # Where the last size - 1 words stand already, the word behind them may not follow again.
        same = np.ones((len(words), places), dtype=np.bool_)
        for i in range(size - 1):
            same &= words[:, i : i + places] == words[:, places + i, np.newaxis]
        rows, starts = np.nonzero(same)
        return table, rows, words[rows, starts + size - 1]


def _numbers(log_probs: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Return a float64 copy of a step's log-probabilities.

    Raises:
        BundleError: they are missing or not finite; a nan would win every search.
    """
    if log_probs is None or not all_finite(log_probs):
        raise BundleError(
            "the model returned log-probabilities that are missing or not finite",
            hint="run mrnn verify on the bundle",
        )
    return log_probs.astype(np.float64)


def all_finite(numbers: NDArray[Any]) -> bool:
    """Say whether all numbers are finite, of floats of any shape."""
    flat = numbers.ravel()
    # One call where no number is huge; none that is infinite or nan makes a finite sum of squares.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = flat.dot(flat)
    return math.isfinite(squares) or bool(np.isfinite(flat).all())
