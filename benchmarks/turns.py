"""Time jobs side by side, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def in_turns(repeats: int, *jobs: Callable[[], object]) -> list[list[float]]:
    """Return the times of each job in s; they take turns, and each has run once before."""
    times: list[list[float]] = [[] for _ in jobs]
    for repeat in range(repeats + 1):
        for job, mine in zip(jobs, times, strict=True):
            began = time.perf_counter()
            job()
            if repeat:
                mine.append(time.perf_counter() - began)
    return times
