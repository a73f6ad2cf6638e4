"""How much two captions have in common: CIDEr-D, and BLEU's n-grams as an F1.

Letters in shapes: h hypotheses, c captions, u different n-grams of the hypotheses, g n-grams,
e n-grams that a caption shares with a hypothesis, p positions in captions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime.reranking.ngrams import (
    LONGEST,
    every_ngram,
    first_words,
    has_words,
    longest_ngrams,
    sizes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIGMA = 6.0


@dataclass(frozen=True, slots=True)
class ReferenceCaptions:
    """ReferenceCaptions to be compared with.

    Attributes:
        ngrams: uint64 [p], of each caption the longest n-gram from every word on, as far as
            hypotheses know the words; see ``ngrams.longest_ngrams``.
        owner: int64 [p], the caption that each belongs to, ascending.
        lengths: int64 [c], words, unknown ones too.
        norms: float64 [c, 4], lengths of the vectors of weighted n-grams of n = 1..4 words.
    """

    ngrams: NDArray[np.uint64]
    owner: NDArray[np.int64]
    lengths: NDArray[np.int64]
    norms: NDArray[np.float64]

    def __len__(self) -> int:
        """Return c."""
        return len(self.lengths)


@dataclass(frozen=True, slots=True)
class Frequencies:
    """In how many images of the references each n-gram occurs.

    Attributes:
        images: how many images there are.
        ngrams: uint64 [g], ascending, those that occur in two images or more; what occurs in none
            counts as if in one.
        counts: unsigned [g], in how many.
    """

    images: int
    ngrams: NDArray[np.uint64]
    counts: NDArray[np.unsignedinteger]

    def weights(self, ngrams: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Return ln(images / max(1, frequency)) of each n-gram, float64 [g]."""
        counts = np.ones(len(ngrams), np.int64)
        if len(self.ngrams):
            place = np.searchsorted(self.ngrams, ngrams)
            place[place == len(self.ngrams)] = 0
            known = self.ngrams[place] == ngrams
            counts[known] = self.counts[place[known]]
        # numpy's logarithm may depend by a bit on where in an array a number stands.
        return np.array([math.log(self.images) - math.log(count) for count in counts.tolist()])


def cider_d(
    hypotheses: Sequence[Sequence[int]], captions: ReferenceCaptions, frequencies: Frequencies
) -> NDArray[np.float64]:
    """Return CIDEr-D of every hypothesis with every caption alone, float64 [h, c], 0..10.

    Per n the cosine of the vectors of n-gram counts times weights, where a hypothesis's count is
    clipped at the caption's; times exp(-(difference of lengths)**2 / (2 * 6**2)); the mean over n
    = 1..4 times 10.

    Args:
        hypotheses: word ids, at least one word each.
        captions: what people said, its norms made with the same frequencies.
        frequencies: of the references.
    """
    shared = _share(hypotheses, captions)
    weights = frequencies.weights(shared.vocabulary)
    mine = shared.counts * weights
    theirs = shared.times * weights[shared.ngram]
    products = shared.sums(np.minimum(mine[:, shared.ngram], theirs) * theirs)
    norms = np.sqrt(_by_size(mine**2, shared.size))[:, np.newaxis] * captions.norms
    similarities = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    lengths = np.array([len(hypothesis) for hypothesis in hypotheses])
    difference = np.abs(lengths[:, np.newaxis] - captions.lengths)
    most = int(difference.max(initial=0))
    penalty = np.array([math.exp(-(words**2) / (2 * SIGMA**2)) for words in range(most + 1)])
    return 10 * penalty[difference] * _mean(similarities)


def bleu_f1(
    hypotheses: Sequence[Sequence[int]], captions: ReferenceCaptions
) -> NDArray[np.float64]:
    """Return the mean over n = 1..4 of the F1 of clipped n-grams, float64 [h, c], 0..1.

    It is 0 where a side has fewer than four words.

    Args:
        hypotheses: word ids.
        captions: what people said.
    """
    shared = _share(hypotheses, captions)
    clipped = shared.sums(np.minimum(shared.counts[:, shared.ngram], shared.times))
    fewer = np.arange(LONGEST)
    lengths = np.array([len(hypothesis) for hypothesis in hypotheses])
    mine = np.maximum(lengths[:, np.newaxis] - fewer, 0)
    theirs = np.maximum(captions.lengths[:, np.newaxis] - fewer, 0)
    f1 = 2 * clipped / np.maximum(mine[:, np.newaxis] + theirs, 1)
    long_enough = (lengths[:, np.newaxis] >= LONGEST) & (captions.lengths >= LONGEST)
    return np.where(long_enough, _mean(f1), 0.0)


def mean_of_largest(similarities: NDArray[np.float64], m: int) -> list[float]:
    """Return of each row of [h, c] the mean of its m largest numbers, of all where c < m."""
    ordered = np.sort(similarities, axis=1)
    return [float(row[-m:].mean()) for row in ordered]


@dataclass(frozen=True, slots=True)
class _Shared:
    """The n-grams of hypotheses, and where captions have them too.

    Attributes:
        vocabulary: uint64 [u], ascending, so shorter n-grams first.
        size: int64 [u], how many words each has.
        counts: float64 [h, u], how often each hypothesis has it.
        ngram: int64 [e], an index into the vocabulary.
        times: float64 [e], how often that caption has it.
        group: int64 [e], caption * 4 + size - 1.
        captions: c.
    """

    vocabulary: NDArray[np.uint64]
    size: NDArray[np.int64]
    counts: NDArray[np.float64]
    ngram: NDArray[np.int64]
    times: NDArray[np.float64]
    group: NDArray[np.int64]
    captions: int

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up values [h, e] to float64 [h, c, 4], by caption and n."""
        groups = self.captions * LONGEST
        sums = [np.bincount(self.group, row, minlength=groups) for row in values]
        return np.array(sums, np.float64).reshape(len(values), self.captions, LONGEST)


def _share(hypotheses: Sequence[Sequence[int]], captions: ReferenceCaptions) -> _Shared:
    longest, owner = longest_ngrams(hypotheses)
    mine = [(owner[where], ngrams) for where, ngrams in every_ngram(longest)]
    vocabulary, column = np.unique(
        np.concatenate([ngrams for _, ngrams in mine]), return_inverse=True
    )
    size, width = sizes(vocabulary), len(vocabulary)
    cells = np.concatenate([owners for owners, _ in mine]) * width + column
    counts = np.bincount(cells, minlength=len(hypotheses) * width)
    places, times = np.unique(_shared_places(vocabulary, size, captions), return_counts=True)
    caption, ngram = np.divmod(places, max(width, 1))
    return _Shared(
        vocabulary=vocabulary,
        size=size,
        counts=counts.reshape(len(hypotheses), width).astype(np.float64),
        ngram=ngram,
        times=times.astype(np.float64),
        group=caption * LONGEST + size[ngram] - 1,
        captions=len(captions),
    )


def _shared_places(
    vocabulary: NDArray[np.uint64], size: NDArray[np.int64], captions: ReferenceCaptions
) -> NDArray[np.int64]:
    """Return caption * u + n-gram for every place where a caption has one of the vocabulary."""
    cells = []
    places = np.arange(len(captions.ngrams))
    for n in range(1, LONGEST + 1):
        # An n-gram is shared only where its first n - 1 words are.
        places = places[has_words(captions.ngrams[places], n)]
        start, stop = np.searchsorted(size, (n, n + 1))
        if start == stop:
            break
        ngrams = first_words(captions.ngrams[places], n)
        index = start + np.searchsorted(vocabulary[start:stop], ngrams)
        index[index == stop] = start
        hit = vocabulary[index] == ngrams
        places = places[hit]
        cells.append(captions.owner[places] * len(vocabulary) + index[hit])
    return np.concatenate(cells) if cells else np.empty(0, np.int64)


def _by_size(values: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """Add up values [h, u] to float64 [h, 4], by the n-grams' sizes."""
    return np.array([np.bincount(size - 1, row, minlength=LONGEST) for row in values])


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis of [h, c, 4], always added in the same order."""
    first, second, third, fourth = np.moveaxis(values, -1, 0)
    mean: NDArray[np.float64] = (first + second + third + fourth) / LONGEST
    return mean
