"""The nearest reference images, exactly, from features that need not fit into memory.

Features are kept in 8 or 16 bits; a photo's feature is rounded the same way before it is compared,
so a photo that is itself among the references is at distance 0 of itself.

Letters in shapes: n reference images, q photos, d feature size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DTYPES = ("int8", "float16")
_PHOTOS = 8
_MAPPED = 2**22  # numbers of a file that are mapped at once
_NUMBERS = 2**17  # numbers that are converted at once: as float32 they stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features in few bits: ``numbers * steps`` they are.

    Attributes:
        numbers: int8 or float16 [n, d]; may be a memory map, of which a part at a time is mapped.
        steps: float32 [n].
        squares: float32 [n], the features' squared lengths, rounded.
    """

    numbers: NDArray[Any]
    steps: NDArray[np.float32]
    squares: NDArray[np.float32]

    def __len__(self) -> int:
        """Return n."""
        return len(self.numbers)

    def exact(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the features at ``rows``, int64 [r], as float64 [r, d]."""
        return _take(self.numbers, rows) * self.steps[rows, np.newaxis].astype(np.float64)


def rounded(features: NDArray[np.float32], dtype: str) -> Features:
    """Round features to few bits.

    Args:
        features: float32 [n, d].
        dtype: ``int8``, each row in steps of its largest number / 127, or ``float16``.

    Raises:
        UsageError: an unknown dtype, or a feature that is not finite in it.
    """
    check_dtype(dtype)
    steps = np.ones(len(features), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # found out below
        if dtype == "float16":
            numbers = features.astype(np.float16).astype(np.float32)
        else:
            largest = np.abs(features).max(axis=1, initial=0) / np.float32(127)
            np.copyto(steps, largest, where=largest >= np.finfo(np.float32).tiny)
            numbers = np.rint(features / steps[:, np.newaxis])
    if not np.isfinite(numbers).all():
        raise UsageError(
            f"a feature is not finite as {dtype}",
            hint="check the model with mrnn verify, or build the references as int8",
        )
    squares = np.einsum("nd,nd->n", numbers, numbers) * steps**2
    return Features(numbers.astype(dtype), steps, squares)


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that features are not kept in.

    Raises:
        UsageError: it is none of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown feature dtype {dtype!r}", hint=f"use {' or '.join(DTYPES)}")


def nearest(
    features: Features, photos: NDArray[np.float32], k: int, *, leave_out: float = 0.0
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Find the k nearest references of each photo by Euclidean distance.

    A quick product in float32 says which references may be among them, with its largest possible
    error allowed for; their distances in float64 decide. So nothing depends on the product's
    rounding, which differs with the number of photos.

    Args:
        features: of the references.
        photos: float32 [q, d], not rounded yet.
        k: how many; fewer where there are not so many.
        leave_out: references nearer than this share of the photo's own length do not count.

    Returns:
        Per photo rows int64 [k] and distances float64 [k], the nearest first, of equal ones the
        lower row first.

    Raises:
        UsageError: a photo's feature is not finite.
    """
    mine = rounded(photos, features.numbers.dtype.name)
    neighbours = []
    for start in range(0, len(mine), _PHOTOS):
        group = mine.exact(np.arange(start, min(start + _PHOTOS, len(mine))))
        for photo, likely in zip(group, _likely(features, group, k, leave_out), strict=True):
            differences = features.exact(likely) - photo
            distances = np.sqrt(np.einsum("nd,nd->n", differences, differences))
            counted = distances >= leave_out * np.sqrt(np.einsum("d,d->", photo, photo))
            rows, distances = likely[counted], distances[counted]
            order = np.argsort(distances, kind="stable")[:k]
            neighbours.append((rows[order], distances[order]))
    return neighbours


def _likely(
    features: Features, photos: NDArray[np.float64], k: int, leave_out: float
) -> list[NDArray[np.int64]]:
    """Return per photo all rows that may be among its k nearest, ascending, and perhaps others."""
    count, size = features.numbers.shape
    single = photos.astype(np.float32)
    distances = np.empty((len(photos), count), np.float32)
    for part, block in _blocks(features.numbers):
        distances[:, part] = single @ block.T
    # The squared distances, without the photo's square.
    distances *= features.steps * np.float32(-2)
    distances += features.squares
    longest = float(features.squares.max(initial=0))
    likely = []
    for photo, row in zip(photos, distances, strict=True):
        square = float(np.einsum("d,d->", photo, photo))
        # d products, their sum and some more roundings, each off by 2**-24 of at most |x| |y|.
        error = (size + 8) * 2.0**-23 * (square + longest)
        # Those that surely count. The bound only gets looser where one of the nearest is not among
        # them.
        sure = row[row >= (leave_out**2 - 1) * square + error]
        bound = np.partition(sure, k - 1)[k - 1] + 2 * error if len(sure) >= k else np.inf
        likely.append(np.flatnonzero(row <= bound))
    return likely


def _take(numbers: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return some rows; of a memory map by reading, since a touch may map a lot around it."""
    if not isinstance(numbers, np.memmap) or numbers.filename is None:
        return numbers[rows]
    taken = np.empty((len(rows), numbers.shape[1]), numbers.dtype)
    with open(numbers.filename, "rb", buffering=0) as file:
        for row, place in zip(rows.tolist(), taken, strict=True):
            file.seek(numbers.offset + row * numbers.strides[0])
            file.readinto(place)
    return taken


def _blocks(numbers: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows as float32, a block at a time; each block is overwritten by the next one.

    A part of a memory map gets a map of its own, so that its memory is given back afterwards.
    """
    count, size = numbers.shape
    rows, mapped = max(1, _NUMBERS // size), max(1, _MAPPED // size)
    buffer = np.empty((min(rows, count), size), np.float32)
    for first in range(0, count, mapped):
        last = min(first + mapped, count)
        part = numbers[first:last]
        if isinstance(numbers, np.memmap) and numbers.filename is not None:
            offset = numbers.offset + first * numbers.strides[0]
            part = np.memmap(numbers.filename, numbers.dtype, "r", offset, (last - first, size))
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            block = buffer[: stop - start]
            np.copyto(block, part[start - first : stop - first])
            yield slice(start, stop), block
