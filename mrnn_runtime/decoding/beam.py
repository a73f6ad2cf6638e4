"""Beam search over all images of a batch at once.

Letters in shapes: n images, a images still searched, r rows (their live hypotheses), k best of a
row, c continuations of an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime.decoding.constraints import Constraints
from mrnn_runtime.decoding.hypotheses import Hypotheses, make_candidate, rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrnn_runtime.plugins.contracts import StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages


class Beam:
    """Keeps the ``beam_size`` best hypotheses of every image, all as rows of one model step.

    A step ranks the continuations of an image's live hypotheses by their summed log-probability; of
    equal sums the one of the better parent is first, then the more probable token, then the lower
    id. The end signs among the best ``beam_size`` continuations finish captions; the best
    ``beam_size`` words continue.

    After ``max_length`` words one more step is made by the same rule, but its words are not
    appended: who does not finish in it is cut, and stands behind every finished caption. A
    hypothesis that no token may follow is cut as well.

    An image is done when no live hypothesis can come among the ``n_best`` finished ones any more,
    or when ``beam_size`` finished ones are at least as probable as every live one: they hold all
    places of the beam. With a length penalty the second rule is what ends the search (and makes
    beam size 1 greedy), though a longer caption might score higher yet; with ``exact`` it does not
    hold. A beam with room for all captions finds exactly the best ones.
    """

    def decode(
        self, model: StepModel, images: EncodedImages, options: DecodeOptions
    ) -> list[list[Candidate]]:
        """Return per image its best candidates: at least one, at most ``n_best``.

        Raises:
            UsageError: the options do not fit the model's vocabulary.
            BundleError: the model's log-probabilities are not finite.
        """
        if not len(images):
            return []
        constraints = Constraints.of(model, options)
        pool = _Pool(len(images), options)
        rows = constraints.begin(images)
        active, sizes = rows.owner, np.ones(len(images), dtype=np.int64)
        while len(rows):
            # A row gives at most one end sign, so this holds its beam_size best words as well.
            ids, gains, state = constraints.best(rows, options.beam_size + 1)
            parents, tokens, log_prob = _continuations(
                rows.log_prob, sizes, ids, gains, 2 * options.beam_size
            )
            possible: NDArray[np.bool_] = log_prob > -np.inf
            is_end: NDArray[np.bool_] = tokens == model.tokens.eos
            ends = possible & is_end
            ends[:, options.beam_size :] = False
            live = possible & ~is_end
            cut: NDArray[np.bool_] = gains.max(axis=1) == -np.inf
            if rows.length == options.max_length:
                live[:], cut[:] = False, True
                cut[parents[ends]] = False
            if ends.any():
                pool.finish(rows, active, parents, np.where(ends, log_prob, -np.inf))
            if cut.any():
                pool.cut(rows, np.flatnonzero(cut))
            live &= live.cumsum(axis=1) <= options.beam_size
            if pool.full:
                best = np.where(live, log_prob, -np.inf).max(axis=1)
                live &= pool.open(active, best)[:, np.newaxis]
            places = np.flatnonzero(live)
            if not places.size:
                break
            sizes = live.sum(axis=1)
            active, sizes = active[sizes > 0], sizes[sizes > 0]
            rows = rows.grow(
                parents.take(places), tokens.take(places), log_prob.take(places), state
            )
        return [rank(candidates, options.n_best) for candidates in pool.captions]


def _continuations(
    log_prob: NDArray[np.float64],
    sizes: NDArray[np.int64],
    ids: NDArray[np.int64],
    gains: NDArray[np.float64],
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rank the continuations of each image.

    Args:
        log_prob: float64 [r], of the live hypotheses; those of one image stand together, best
            first.
        sizes: int64 [a], how many each image has, at least one.
        ids: int64 [r, k], tokens that may follow, best first.
        gains: float64 [r, k], their log-probabilities, -inf where forbidden.
        count: how many continuations are wanted per image.

    Returns:
        Of each image's c <= ``count`` best continuations, best first: the row that it continues,
        int64 [a, c]; its token, int64 [a, c]; the new sum of log-probabilities, float64 [a, c],
        -inf where there is no such continuation.
    """
    images, k, widest = len(sizes), ids.shape[1], int(sizes.max())
    sums = log_prob[:, np.newaxis] + gains
    if len(sums) < images * widest:  # an image with fewer rows than another has empty places
        grid = np.full((images, widest, k), -np.inf)
        grid[np.arange(widest) < sizes[:, np.newaxis]] = sums
        sums = grid
    sums = sums.reshape(images, -1)
    order = np.argsort(-sums, axis=1, kind="stable")[:, :count]
    starts = sizes.cumsum() - sizes
    # Empty places may point past the last row.
    at = np.minimum(order + k * starts[:, np.newaxis], ids.size - 1)
    return at // k, ids.take(at), sums[np.arange(images)[:, np.newaxis], order]


class _Pool:
    """The captions that are done, per image, and what that means for those that are not."""

    def __init__(self, count: int, options: DecodeOptions) -> None:
        self.captions: list[list[Candidate]] = [[] for _ in range(count)]
        self._options = options
        # Of each image's finished captions the best few, float64 [n, up to that many], rising.
        self._scores = np.empty((count, 0))
        self._log_probs = np.empty((count, 0))

    def finish(
        self,
        rows: Hypotheses,
        active: NDArray[np.int64],
        parents: NDArray[np.int64],
        log_prob: NDArray[np.float64],
    ) -> None:
        """Take in finished captions.

        Args:
            rows: the hypotheses that finish, without their end sign.
            active: int64 [a], images.
            parents: int64 [a, c], rows.
            log_prob: float64 [a, c], with the end sign; -inf where nothing finishes.
        """
        image, column = np.nonzero(log_prob > -np.inf)
        self._add(rows, parents[image, column], log_prob[image, column], finished=True)
        ended = np.full((len(self.captions), log_prob.shape[1]), -np.inf)
        ended[active] = log_prob
        scores = ended / float(rows.length + 1) ** self._options.length_penalty
        self._scores = _largest(self._scores, scores, self._options.n_best)
        self._log_probs = _largest(self._log_probs, ended, self._options.beam_size)

    def cut(self, rows: Hypotheses, at: NDArray[np.int64]) -> None:
        """Take in the hypotheses at ``at``, int64 [p], as captions that are not finished."""
        self._add(rows, at, rows.log_prob[at], finished=False)

    @property
    def full(self) -> bool:
        """Whether there may be an image that is done: ``open`` says which."""
        return (
            self._scores.shape[1] == self._options.n_best
            or self._log_probs.shape[1] == self._options.beam_size
        )

    def open(self, active: NDArray[np.int64], best: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Say which images are to be searched further, bool [a].

        Args:
            active: int64 [a], images.
            best: float64 [a], the log-probability of the best live hypothesis of each.
        """
        # A log-probability never rises, and dividing a negative number by the greatest length makes
        # the most of it: no descendant scores higher. A later caption is longer, so it loses a tie.
        limit = best / float(self._options.max_length + 1) ** self._options.length_penalty
        still = np.ones(len(active), dtype=np.bool_)
        if self._scores.shape[1] == self._options.n_best:
            still &= self._scores[active, 0] < limit
        if self._log_probs.shape[1] == self._options.beam_size and not self._options.exact:
            still &= self._log_probs[active, 0] < best
        return still

    def _add(
        self,
        rows: Hypotheses,
        at: NDArray[np.int64],
        log_prob: NDArray[np.float64],
        *,
        finished: bool,
    ) -> None:
        for owner, words, total in zip(
            rows.owner[at].tolist(), rows.words[at].tolist(), log_prob.tolist(), strict=True
        ):
            self.captions[owner].append(
                make_candidate(
                    words, total, finished=finished, length_penalty=self._options.length_penalty
                )
            )


def _largest(old: NDArray[np.float64], new: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the ``count`` largest of each row of both, rising, or all where there are fewer."""
    return np.sort(np.concatenate([old, new], axis=1), axis=1)[:, -count:]
