"""Work on several batches at a time, in order, and within a bound of memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Condition
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

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
    threads = 0 if workers == 1 else workers
    with ahead(job, parts, threads, begun=workers * _AHEAD) as results:
        for result in results:
            yield result()


@contextmanager
def ahead(
    job: Callable[[T], R], parts: Iterable[T], threads: int, *, begun: int | None = None
) -> Iterator[Iterator[Callable[[], R]]]:
    """Give for each part, in order, a function that returns the job's result or waits for it.

    The threads work on the parts that are asked for next. Leaving waits for the parts that are
    being worked on, and drops the others.

    Args:
        job: must be safe to call in several threads.
        parts: what it is called with.
        threads: how many; 0 lets who asks for the result do the job.
        begun: how many parts are begun before they are asked for; by default one a thread.
    """
    if threads == 0:
        yield (partial(job, part) for part in parts)
        return
    pool = ThreadPoolExecutor(threads, "mrnn-worker")
    try:
        yield _begun(pool, job, parts, threads if begun is None else begun)
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(
    pool: ThreadPoolExecutor, job: Callable[[T], R], parts: Iterable[T], count: int
) -> Iterator[Callable[[], R]]:
    begun: deque[Future[R]] = deque()
    for part in parts:
        begun.append(pool.submit(job, part))
        if len(begun) > count:
            yield begun.popleft().result
    while begun:
        yield begun.popleft().result


class Budget:
    """Bytes that several threads share: who claims more than are left waits for the others."""

    def __init__(self, total: int, *, by: str = "") -> None:
        """Start with ``total`` bytes that are free; ``by`` says in errors what allows so many."""
        self._total = self._free = total
        self._by = by
        self._changed = Condition()

    @contextmanager
    def claims(self) -> Iterator[Callable[[int], None]]:
        """Give a function that claims bytes, once; they are free again on leaving.

        It raises MemoryError where there will never be as many.
        """
        held = 0

        def claim(count: int) -> None:
            nonlocal held
            if count > self._total:
                need, most = -(-count // 10**6), self._total // 10**6
                raise MemoryError(f"it takes {need} MB, and {most} MB are allowed{self._by}")
            with self._changed:
                self._changed.wait_for(lambda: self._free >= count)
                self._free -= count
            held = count

        try:
            yield claim
        finally:
            with self._changed:
                self._free += held
                self._changed.notify_all()
