"""A small model that needs no files, and images for it.

Letters in shapes: n images, r rows, V vocabulary, k best, d feature size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime.errors import UsageError
from mrnn_runtime.types import EncodedImages, Scores, SpecialTokens

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encoded_images(count: int, *, seed: int = 0, feature_size: int = 4) -> EncodedImages:
    """Return ``count`` different random images as an encoder would return them.

    Args:
        count: n; the first images of a larger count are the same.
        seed: where the random numbers start.
        feature_size: d, the width of ``image_term`` and of ``reference_feature``, float32 [n, d].
    """
    numbers = np.random.default_rng(seed).random((count, 2, feature_size), dtype=np.float32)
    return EncodedImages(
        inputs={"image_term": np.ascontiguousarray(numbers[:, 0])},
        reference_feature=np.ascontiguousarray(numbers[:, 1]),
    )


@dataclass(frozen=True, slots=True)
class TableState:
    """What a TableModel remembers of r rows.

    Attributes:
        image: uint64 [r], a hash of the image's inputs.
        past: uint64 [r], a hash of the tokens that count.
        step: uint64 [r], the tokens fed so far.
    """

    image: NDArray[np.uint64]
    past: NDArray[np.uint64]
    step: NDArray[np.uint64]

    def __len__(self) -> int:
        """Return r."""
        return len(self.image)

    def take(self, rows: NDArray[np.int64]) -> TableState:
        """Return the state of ``rows``, int64 [r'], in that order."""
        return TableState(self.image[rows], self.past[rows], self.step[rows])


class TableModel:
    """A StepModel whose distributions are made up, but always the same for the same question.

    The logit of a token is a hash of the image, the tokens fed so far, their number and the token
    itself: as good as a table of random numbers with an entry for every sentence, without the
    table. The ids of pad, bos, eos and unk are 0, 1, 2 and 3; words start at 4. Results are equal
    bit for bit whatever else is in the batch. What ONNX Runtime would take in silence, such as
    token -1, is refused.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int = 10,
        seed: int = 0,
        history: bool = True,
        spread: float = 4.0,
        levels: int = 0,
        end_bias: float = 0.0,
    ) -> None:
        """Make up a model.

        Args:
            vocabulary_size: V, with the four special tokens.
            seed: another seed is another model.
            history: whether all tokens so far count, or the last one only.
            spread: logits lie in 0..spread; the greater, the surer the model.
            levels: the number of different logits, so that many are equal; 0 is any number.
            end_bias: added to the end sign's logit; the greater, the shorter the captions.
        """
        self._size = vocabulary_size
        self._seed = np.array([seed], dtype=np.uint64)
        self._history = history
        self._spread = spread
        self._levels = levels
        self._end_bias = end_bias

    @property
    def tokens(self) -> SpecialTokens:
        """The ids of pad, bos, eos and unk: 0, 1, 2, 3."""
        return SpecialTokens(pad=0, bos=1, eos=2, unk=3)

    @property
    def vocabulary_size(self) -> int:
        """V, special tokens included."""
        return self._size

    def start(self, images: EncodedImages) -> TableState:
        """Return the state before the start sign: one row an image, in order."""
        image = np.repeat(_hash(self._seed), len(images))
        for name in sorted(images.inputs):
            array = np.ascontiguousarray(images.inputs[name])
            flat = array.reshape(len(images), math.prod(array.shape[1:]))
            for column in flat.view(np.uint8).T:
                image = _hash(image ^ column)
        zeros = np.zeros(len(images), dtype=np.uint64)
        return TableState(image=image, past=zeros, step=zeros)

    def step(
        self, tokens: NDArray[np.int64], state: TableState, top_k: int, *, full: bool = False
    ) -> tuple[Scores, TableState]:
        """Feed one token to each row; see StepModel.step.

        Raises:
            UsageError: the tokens do not fit the state or the vocabulary, or top_k is negative.
        """
        if tokens.dtype != np.int64 or tokens.shape != (len(state),):
            raise UsageError(
                f"tokens must be int64 [{len(state)}], not {tokens.dtype} {list(tokens.shape)}"
            )
        if ((tokens < 0) | (tokens >= self._size)).any():
            raise UsageError(f"tokens must lie in 0..{self._size - 1}, not {tokens.tolist()}")
        if top_k < 0:
            raise UsageError(f"top_k must not be negative, not {top_k}")
        past = _hash(
            (state.past if self._history else np.zeros_like(state.past)) ^ tokens.astype(np.uint64)
        )
        state = TableState(image=state.image, past=past, step=state.step + np.uint64(1))
        log_probs = self._log_probs(state)
        order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top_k]
        scores = Scores(
            ids=order.astype(np.int64),
            values=np.take_along_axis(log_probs, order, axis=1),
            log_probs=log_probs if full else None,
        )
        return scores, state

    def _log_probs(self, state: TableState) -> NDArray[np.float32]:
        """Return the next token's distribution, float32 [r, V]."""
        question = _hash(_hash(state.image ^ state.past) ^ state.step)
        answers = _hash(question[:, np.newaxis] ^ np.arange(self._size, dtype=np.uint64))
        logits = (answers >> np.uint64(11)) * 2.0**-53
        if self._levels:
            logits = np.floor(logits * self._levels) / self._levels
        logits *= self._spread
        logits[:, self.tokens.eos] += self._end_bias
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits.astype(np.float32)


def _hash(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each number (splitmix64): close numbers become unrelated ones."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
