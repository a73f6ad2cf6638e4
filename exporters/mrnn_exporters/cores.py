"""Work on all cores: ONNX Runtime, Pillow and numpy let threads run side by side."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(job: Callable[[T], R], parts: Sequence[T], what: str) -> Iterator[R]:
    """Yield the job's result for each part, in order; what is not started stops with the caller.

    Args:
        job: called in several threads at once.
        parts: what it is called with.
        what: the name on the progress bar, which is on stderr where that is a terminal.
    """
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        yield from track(
            pool.map(job, parts),
            what,
            total=len(parts),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
    finally:
        pool.shutdown(cancel_futures=True)
