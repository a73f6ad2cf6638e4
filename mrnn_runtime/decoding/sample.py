"""Sampling: captions drawn from the model's distribution."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.decoding.constraints import Constraints
from mrnn_runtime.decoding.hypotheses import Hypotheses, extend_to_end, rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrnn_runtime.plugins.contracts import StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages


class Sample:
    """Draws ``n_best`` captions an image, word by word; two of them may be the same.

    A token is drawn from what the constraints allow: log-probabilities divided by ``temperature``,
    then the ``top_k`` best, then the fewest best that hold ``top_p`` of their probability, scaled
    to 1. The log-probability that a candidate carries is the model's own, before all of that. After
    ``max_length`` words one more token is drawn: the end sign finishes the caption, a word cuts it.

    Every image has a random stream of its own, started from ``seed`` and a digest of the image's
    encoded inputs. So its samples repeat, and depend neither on its place in the batch nor on its
    neighbours; the same image twice gives the same samples twice. An encoder that rounds otherwise
    (another provider, say) means another stream: samples repeat on one machine, not across
    machines.
    """

    def decode(
        self, model: StepModel, images: EncodedImages, options: DecodeOptions
    ) -> list[list[Candidate]]:
        """Return per image ``n_best`` samples, ranked as every decoder ranks.

        Raises:
            UsageError: the options do not fit the model's vocabulary.
            BundleError: the model's log-probabilities are not finite.
        """
        if not len(images):
            return []
        constraints = Constraints.of(model, options)
        count = options.n_best
        streams = [_stream(images, image, options.seed) for image in range(len(images))]
        start = constraints.begin(images)
        image = np.repeat(start.owner, count)
        rows = Hypotheses(
            owner=np.arange(len(image), dtype=np.int64),
            words=start.words[image],
            log_prob=start.log_prob[image],
            state=start.state.take(image),
        )

        def choose(rows: Hypotheses) -> tuple[NDArray[np.int64], NDArray[np.float64], Any]:
            # Drawn for ended samples as well, so that a sample does not depend on when others end.
            draws = np.concatenate([stream.random(count) for stream in streams])[rows.owner]
            if options.top_k:
                ids, log_probs, state = constraints.best(rows, options.top_k)
            else:
                log_probs, state = constraints.every(rows)
                ids = np.broadcast_to(
                    np.arange(model.vocabulary_size, dtype=np.int64), log_probs.shape
                )
            row, column = np.arange(len(rows)), _draw(_weights(log_probs, options), draws)
            return ids[row, column], log_probs[row, column], state

        captions = extend_to_end(rows, choose, model.tokens.eos, options)
        return [rank(captions[i : i + count], count) for i in range(0, len(captions), count)]


def _stream(images: EncodedImages, image: int, seed: int) -> np.random.Generator:
    """Return the random numbers of one image: a function of ``seed`` and of what the cell sees."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(images.inputs):
        digest.update(name.encode())
        digest.update(images.inputs[name][image].tobytes())
    key = int.from_bytes(digest.digest(), "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, key])))


def _weights(log_probs: NDArray[np.float64], options: DecodeOptions) -> NDArray[np.float64]:
    """Return the weights to draw by, float64 [r, k]: 0 for what may not be drawn.

    Args:
        log_probs: float64 [r, k], -inf where forbidden; falling in each row where ``top_k`` is set.
        options: temperature, top_k and top_p are read.
    """
    best = log_probs.max(axis=1, keepdims=True)
    best[np.isneginf(best)] = 0.0  # nothing allowed: all weights become 0
    weights: NDArray[np.float64] = np.exp((log_probs - best) / options.temperature)
    if options.top_k:
        weights[np.cumsum(log_probs > -np.inf, axis=1) > options.top_k] = 0.0
    if options.top_p < 1.0:
        weights[~_nucleus(weights, options.top_p)] = 0.0
    return weights


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Say which columns hold ``top_p`` of each row's weight, the fewest possible, bool [r, k].

    Of equal weights the left one is taken first. Only values are sorted, never indices, which is
    several times faster; that matters for a whole vocabulary.

    Args:
        weights: float64 [r, k], not negative.
        top_p: the share to hold, above 0.
    """
    falling = -np.sort(-weights, axis=1)
    reached = np.cumsum(falling, axis=1)
    before = reached - falling
    count = np.count_nonzero(before < top_p * reached[:, -1:], axis=1, keepdims=True)
    least = np.take_along_axis(falling, np.maximum(count - 1, 0), axis=1)
    above, level = weights > least, weights == least
    room = count - np.count_nonzero(above, axis=1, keepdims=True)
    chosen: NDArray[np.bool_] = above | (level & (np.cumsum(level, axis=1) <= room))
    return chosen


def _draw(weights: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column that each row's draw falls into, int64 [r].

    Args:
        weights: float64 [r, k], not negative; a row of zeros gives its last column.
        draws: float64 [r], uniform in [0, 1).
    """
    reached = np.cumsum(weights, axis=1)
    column: NDArray[np.int64] = np.count_nonzero(
        reached <= (draws * reached[:, -1])[:, np.newaxis], axis=1
    )
    return column.clip(max=weights.shape[1] - 1)
