"""Records of captions as columns of Arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import Caption

_CANDIDATE = pa.struct(
    {
        "caption": pa.string(),
        "log_prob": pa.float64(),
        "score": pa.float64(),
        "rank_before": pa.int32(),
        "rank": pa.int32(),
    }
)
_NEIGHBOUR = pa.struct({"image": pa.string(), "distance": pa.float64()})
# What Caption.record() says, and why a photo has no caption.
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "caption": pa.string(),
        "log_prob": pa.float64(),
        "finished": pa.bool_(),
        "confidence": pa.float64(),
        "candidates": pa.list_(_CANDIDATE),
        "model": pa.string(),
        "provider": pa.string(),
        "decoder": pa.string(),
        "reranker": pa.string(),
        "neighbours": pa.list_(_NEIGHBOUR),
        "error": pa.string(),
    }
)


def table(
    captions: Sequence[Caption], vectors: Mapping[str, NDArray[np.float16]] | None = None
) -> pa.Table:
    """Return a row a caption.

    Args:
        captions: n of them.
        vectors: columns of float16 [m, d], of the m captions without an error, in order.
    """
    columns = pa.Table.from_pylist([caption.record() for caption in captions], SCHEMA)
    is_there = np.array([caption.error is None for caption in captions], bool)
    for name, values in (vectors or {}).items():
        columns = columns.append_column(name, _vectors(values, is_there))
    return columns


def _vectors(values: NDArray[np.float16], is_there: NDArray[np.bool_]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return fixed-size lists, null where there is no vector."""
    spread = np.zeros((len(is_there), values.shape[1]), np.float16)
    spread[is_there] = values
    return pa.FixedSizeListArray.from_arrays(
        pa.array(spread.ravel()), spread.shape[1], mask=pa.array(~is_there)
    )
