"""Work on all cores: ONNX Runtime, Pillow and numpy let threads run side by side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import track

from mrnn_runtime.build import cores, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(job: Callable[[T], R], parts: Sequence[T], what: str) -> Iterable[R]:
    """Give the job's result for each part, in order, as they are asked for.

    Args:
        job: called in several threads at once.
        parts: what it is called with.
        what: the name on the progress bar, which is on stderr where that is a terminal.
    """
    return track(
        in_order(job, parts, cores()),
        what,
        total=len(parts),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
