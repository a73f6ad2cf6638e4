"""The nearest reference images, exactly, from features that need not fit into memory.

Features are kept in 8 or 16 bits; a photo's feature is rounded the same way before it is compared,
so a photo that is itself among the references is at distance 0 of itself.

Letters in shapes: n reference images, q photos, d feature size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = ("int8", "float16")
_PHOTOS = 8
_NUMBERS = 2**21  # in a block of features: 8 MB as float32


def rounded(features: NDArray[np.float32], dtype: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Round features to few bits.

    Args:
        features: float32 [n, d].
        dtype: ``int8``, each row in steps of its largest number / 127, or ``float16``.

    Returns:
        The numbers [n, d], and what each row is to be multiplied by, float32 [n].

    Raises:
        UsageError: an unknown dtype, or a feature that is not finite in it.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown feature dtype {dtype!r}", hint=f"use {' or '.join(DTYPES)}")
    if dtype == "float16":
        with np.errstate(over="ignore"):
            numbers = features.astype(np.float16)
        steps = np.ones(len(features), np.float32)
    else:
        largest = np.abs(features).max(axis=1, initial=0)
        steps = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
        numbers = np.rint(features / steps[:, np.newaxis])
    if not np.isfinite(numbers).all():
        raise UsageError(
            f"a feature is not finite as {dtype}",
            hint="check the model with mrnn verify, or build the references as int8",
        )
    return numbers.astype(dtype, copy=False), steps


def nearest(
    numbers: NDArray[Any],
    steps: NDArray[np.float32],
    photos: NDArray[np.float32],
    k: int,
    *,
    leave_out: float = 0.0,
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Find the k nearest references of each photo by Euclidean distance.

    A quick product in float32 says which references may be among them, with its largest possible
    error allowed for; their distances in float64 decide. So nothing depends on the product's
    rounding, which differs with the number of photos.

    Args:
        numbers: int8 or float16 [n, d] from ``rounded``; may be a memory map, of which a block at
            a time is in memory.
        steps: float32 [n], likewise.
        photos: float32 [q, d], not rounded yet.
        k: how many; fewer where there are not so many.
        leave_out: references nearer than this share of the photo's own length do not count.

    Returns:
        Per photo rows int64 [k] and distances float64 [k], the nearest first, of equal ones the
        lower row first.

    Raises:
        UsageError: a photo's feature is not finite.
    """
    mine, my_steps = rounded(photos, numbers.dtype.name)
    found = []
    for start in range(0, len(mine), _PHOTOS):
        group = slice(start, start + _PHOTOS)
        exact = mine[group] * my_steps[group, np.newaxis].astype(np.float64)
        for photo, likely in zip(exact, _likely(numbers, steps, exact, k, leave_out), strict=True):
            differences = numbers[likely] * steps[likely, np.newaxis].astype(np.float64) - photo
            distances = np.sqrt(np.einsum("nd,nd->n", differences, differences))
            likely, distances = _far_enough(likely, distances, _length(photo) * leave_out)
            order = np.argsort(distances, kind="stable")[:k]
            found.append((likely[order], distances[order]))
    return found


def _far_enough(
    rows: NDArray[np.int64], distances: NDArray[np.float64], least: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    kept = distances >= least
    return rows[kept], distances[kept]


def _length(vector: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.einsum("d,d->", vector, vector)))


def _likely(
    numbers: NDArray[Any],
    steps: NDArray[np.float32],
    photos: NDArray[np.float64],
    k: int,
    leave_out: float,
) -> list[NDArray[np.int64]]:
    """Return per photo all rows that may be among its k nearest, ascending, and perhaps others."""
    size = photos.shape[1]
    single = photos.astype(np.float32)
    squares = np.einsum("qd,qd->q", photos, photos)
    distances = np.empty((len(photos), len(numbers)), np.float32)
    longest = 0.0
    rows = max(1, _NUMBERS // max(1, size))
    for start in range(0, len(numbers), rows):
        part = slice(start, min(start + rows, len(numbers)))
        block = _window(numbers, part).astype(np.float32)
        block *= steps[part, np.newaxis]
        own = np.einsum("nd,nd->n", block, block)
        longest = max(longest, float(own.max()))
        distances[:, part] = (single @ block.T) * np.float32(-2) + own
    likely = []
    for square, row in zip(squares, distances, strict=True):
        # d products, their sum and three more roundings, each off by 2**-24 of at most |x| |y|.
        error = (size + 8) * 2.0**-23 * (square + longest)
        # Those that surely count; a row lacks the photo's square. The bound only gets looser where
        # one of the nearest is not among them.
        sure = row[row >= (leave_out**2 - 1) * square + error]
        bound = np.partition(sure, k - 1)[k - 1] + 2 * error if len(sure) >= k else np.inf
        likely.append(np.flatnonzero(row <= bound))
    return likely


def _window(numbers: NDArray[Any], part: slice) -> NDArray[Any]:
    """Return some rows; of a memory map by a map of its own, whose memory is given back at once."""
    if not isinstance(numbers, np.memmap) or numbers.filename is None:
        return numbers[part]
    return np.memmap(
        numbers.filename,
        numbers.dtype,
        "r",
        numbers.offset + part.start * numbers.strides[0],
        (part.stop - part.start, numbers.shape[1]),
    )
