"""N-grams of one to four words as exact 64-bit numbers, the words' order included.

Word i of an n-gram lies in bits 16 i .. 16 i + 15, as its id plus one; absent words are zero. So no
two n-grams share a number, longer ones are greater than shorter ones, and an n-gram's first words
are its lowest bits.

Letters in shapes: c captions, t words, p positions, g n-grams, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

LONGEST = 4
MOST_WORDS = 2**16 - 1
_BITS = 16


def longest_ngrams(
    sentences: Sequence[Sequence[int]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return for every word the longest n-gram that it begins, uint64 [t], and whose it is.

    All other n-grams of a sentence are first words of these.

    Args:
        sentences: word ids below ``MOST_WORDS``.

    Returns:
        The n-grams, and the sentence that each belongs to, int64 [t].
    """
    lengths = [len(sentence) for sentence in sentences]
    total = sum(lengths)
    words = np.fromiter((w + 1 for s in sentences for w in s), np.uint64, total)
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    ngrams = words.copy()
    for place in range(1, LONGEST):
        goes_on = sentence[place:] == sentence[: total - place]
        ngrams[: total - place][goes_on] |= words[place:][goes_on] << np.uint64(_BITS * place)
    return ngrams, sentence


def first_words(ngrams: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return the first n words of each n-gram, uint64 [g]; ask only for n that it has."""
    return ngrams & np.uint64((1 << _BITS * n) - 1)


def has_words(ngrams: NDArray[np.uint64], n: int) -> NDArray[np.bool_]:
    """Tell of which n-grams have n words or more, bool [g]."""
    return ngrams >= np.uint64(1 << _BITS * (n - 1))


def sizes(ngrams: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how many words each n-gram has, int64 [g]."""
    least = np.array([1 << _BITS * place for place in range(LONGEST)], np.uint64)
    return np.searchsorted(least, ngrams, side="right").astype(np.int64)


def every_ngram(
    ngrams: NDArray[np.uint64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Yield for n = 1..4 where n-grams of n words begin, int64 [p], and the n-grams, uint64 [p].

    Args:
        ngrams: from ``longest_ngrams``.
    """
    for n in range(1, LONGEST + 1):
        where = np.flatnonzero(has_words(ngrams, n))
        yield where, first_words(ngrams[where], n)


def known_words(ngrams: NDArray[np.uint64], vocabulary_size: int) -> NDArray[np.uint64]:
    """Cut each n-gram off before its first word with an id of V or more; zero is nothing left."""
    kept = ngrams.copy()
    for place in range(LONGEST):
        word = (kept >> np.uint64(_BITS * place)) & np.uint64(MOST_WORDS)
        unknown = word > vocabulary_size
        kept[unknown] = first_words(kept[unknown], place)
    return kept
