"""The commands of mrnn-exporters. Each imports what it needs inside its function."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DATASETS = "flickr8k, flickr30k, iapr-tc12, coco, karpathy, folder or webdataset"


def data_sets(given: Sequence[str], roots: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """Return (name, folder) of each ``--dataset NAME:DIR``, or ``--dataset NAME --root DIR``.

    Raises:
        UsageError: a data set has no folder, or a folder no data set.
    """
    from pathlib import Path

    from mrnn_runtime import UsageError

    left = list(roots)
    pairs = []
    for text in given:
        name, colon, folder = text.partition(":")
        if not colon and not left:
            raise UsageError(f"--dataset {text} has no folder", hint=f"--dataset {text}:DIR")
        root = Path(folder) if colon else left.pop(0)
        pairs.append((name, str(root.resolve())))
    if left:
        raise UsageError(f"--root {left[0]} belongs to no --dataset", hint="leave it out")
    return tuple(pairs)
