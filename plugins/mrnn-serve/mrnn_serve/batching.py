"""The queue before a model: a batch is what waits when a worker becomes free, up to a size.

There is no timer: the first job of an idle server starts at once, and while a batch runs the next
one fills. All state belongs to the event loop; only the work itself runs in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class Work(Hashable, Protocol[ItemIn, ResultOut]):
    """What is done with the items of a batch; items of equal works share one.

    It is called in a thread, and returns one result an item, in order.
    """

    def __call__(self, items: Sequence[ItemIn], /) -> Sequence[ResultOut]:
        """Return the results."""
        ...


@dataclass(eq=False, slots=True)
class _Job:
    work: Work[Any, Any]
    item: Any
    answer: asyncio.Future[Any]
    since: float


class Batcher:
    """Runs items in batches on a few threads: ``async with Batcher(...) as batcher``.

    On leaving, what still waits is done first. Every item is answered once: with its result, or
    with what its batch raised. An item whose caller was cancelled before its batch began costs
    nothing.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        workers: int,
        on_batch: Callable[[int, float], None] = lambda size, waited: None,
    ) -> None:
        """Set the limits.

        Args:
            batch_size: items in a batch, at most.
            workers: batches that run at a time.
            on_batch: is told the size of each batch, and how many seconds its first item waited.
        """
        self._batch_size = batch_size
        self._workers = workers
        self._on_batch = on_batch
        self._waiting: dict[_Job, None] = {}  # in order of arrival; a set would lose it
        self._wake = asyncio.Event()
        self._idle = 0
        self._closing = False
        self._threads = ThreadPoolExecutor(workers)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start the workers."""
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self._workers)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Do what waits, then stop."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._tasks)
        self._threads.shutdown()

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._waiting)

    async def run(self, work: Work[Item, Result], item: Item) -> Result:
        """Return the result of one item; whoever cancels this takes the item out of the queue.

        Raises:
            RuntimeError: the queue is closing.
            Exception: whatever the work raised.
        """
        if self._closing:
            raise RuntimeError("the queue is closing")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = _Job(work, item, answer, time.monotonic())
        self._waiting[job] = None
        self._wake.set()
        try:
            return await answer
        finally:
            self._waiting.pop(job, None)

    async def _serve(self) -> None:
        while await self._something_waits():
            batch = self._take()
            self._on_batch(len(batch), time.monotonic() - batch[0].since)
            try:
                results = await asyncio.get_running_loop().run_in_executor(
                    self._threads, batch[0].work, [job.item for job in batch]
                )
            except Exception as error:
                for job in batch:
                    if not job.answer.done():
                        job.answer.set_exception(error)
            else:
                for job, result in zip(batch, results, strict=True):
                    if not job.answer.done():  # cancelled: its caller left
                        job.answer.set_result(result)

    async def _something_waits(self) -> bool:
        """Wait for a job; return False where none will come any more."""
        self._idle += 1
        while not self._waiting and not self._closing:
            self._wake.clear()
            await self._wake.wait()
        return bool(self._waiting)

    def _take(self) -> list[_Job]:
        """Take the oldest job, and those of equal work behind it."""
        share = -(-len(self._waiting) // self._idle)  # a few jobs leave no worker idle
        self._idle -= 1
        work = next(iter(self._waiting)).work
        equal = (job for job in self._waiting if job.work == work)
        batch = list(islice(equal, min(self._batch_size, share)))
        for job in batch:
            del self._waiting[job]
        return batch
