"""What a graph gives back is held against what bundle.json says of it, in this one place.

A bundle's graphs are written by others. ONNX Runtime promises neither the shape that a graph
declares nor that its numbers are finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.decoding.constraints import all_finite
from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mrnn_runtime.bundle.tensors import TensorSpec

# A log-probability, and how far rounding may lift one above 0.
_SCORES = ("log_probs", "best_values")
_ABOVE_ZERO = 1e-4


def check_outputs(
    path: Path,
    specs: Mapping[str, TensorSpec],
    arrays: Mapping[str, Any],
    *free: int,
    ids_below: int = 0,
) -> None:
    """Check what a graph gave.

    Args:
        path: of the graph, for the error.
        specs: what bundle.json says of its outputs, by name.
        arrays: what it gave, by name; rows that stay on a GPU are passed over.
        free: sizes of an output's free dimensions, in order: those with fewer take the first ones.
        ids_below: what the ids in best_ids must be below.

    Raises:
        BundleError: an output has another dtype or shape, or a number that cannot be.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            continue
        spec, sizes = specs[name], iter(free)
        shape = tuple([size if isinstance(size, int) else next(sizes) for size in spec.shape])
        if array.shape != shape or array.dtype != spec.dtype:
            complaint = f"{array.dtype} {list(array.shape)} instead of {spec.dtype} {list(shape)}"
            raise _wrong(path, name, complaint)
        if not array.size:
            continue
        if array.dtype.kind == "f" and not all_finite(array):
            raise _wrong(path, name, "numbers that are not finite")
        if name in _SCORES and (high := np.maximum.reduce(array, axis=None)) > _ABOVE_ZERO:
            raise _wrong(path, name, f"a log-probability of {high:.6g}")
        # As unsigned numbers, negative ones are too large.
        if name == "best_ids" and np.maximum.reduce(array.view(np.uint64), axis=None) >= ids_below:
            raise _wrong(path, name, f"ids that are not from 0 to {ids_below - 1}")


def _wrong(path: Path, name: str, complaint: str) -> BundleError:
    return BundleError(
        f"{path}: the output {name} gives {complaint}",
        hint="check the bundle with mrnn verify, and export it again; training may have diverged",
    )
