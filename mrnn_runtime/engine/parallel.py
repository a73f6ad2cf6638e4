"""Work on several batches at a time, and give the results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2  # parts that wait for each worker, so that none stands idle while results are taken


def in_order(job: Callable[[T], R], parts: Iterable[T], workers: int) -> Generator[R]:
    """Yield the job's result for each part, in order, as they are asked for.

    With several workers, the job is called in as many threads at once, and a few parts ahead of
    the one that is asked for: what is in memory does not grow with the number of parts. Closing the
    iterator waits for the parts that are being worked on, and drops the others.

    Args:
        job: must be safe to call in several threads.
        parts: what it is called with.
        workers: how many threads; 1 works in the caller's own.
    """
    if workers == 1:
        yield from map(job, parts)
        return
    pool = ThreadPoolExecutor(workers, "mrnn-worker")
    pending: deque[Future[R]] = deque()
    try:
        for part in parts:
            pending.append(pool.submit(job, part))
            if len(pending) > workers * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
