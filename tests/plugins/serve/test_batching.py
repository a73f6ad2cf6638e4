"""The laws of the queue: every item is answered once, whoever leaves and whatever fails."""

import asyncio
import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mrnn_serve")

from mrnn_serve.batching import Batcher


@dataclass(frozen=True)
class Logged:
    """Answers an item with itself and the key, or fails where the key is odd."""

    key: int
    log: list = field(compare=False)

    def __call__(self, items):
        self.log.append((self.key, list(items)))
        if self.key % 2:
            raise ValueError(self.key)
        return [(self.key, item) for item in items]


@dataclass(frozen=True, eq=False)
class Door:
    """Occupies a worker until it is opened."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self, items):
        self.entered.release()
        assert self.open.wait(30)
        return items


async def occupy(batcher, workers):
    """Occupy all workers, so that what comes next waits."""
    door = Door()
    tasks = [asyncio.create_task(batcher.run(door, place)) for place in range(workers)]
    for _ in range(workers):
        assert await asyncio.to_thread(door.entered.acquire, timeout=30)
    return door, tasks


async def until_waiting(batcher, count):
    while len(batcher) != count:
        await asyncio.sleep(0)


@settings(deadline=None, max_examples=60)
@given(
    keys=st.lists(st.integers(0, 3), max_size=12),
    leaving=st.sets(st.integers(0, 11)),
    size=st.integers(1, 5),
    workers=st.integers(1, 3),
    awaited=st.booleans(),
)
def test_every_item_is_answered_once(keys, leaving, size, workers, awaited):
    log = []
    leaving = {place for place in leaving if place < len(keys)}

    async def script():
        async with Batcher(batch_size=size, workers=workers) as batcher:
            # Of one key each, so that a batch of them takes one worker only.
            door, occupied = await occupy(batcher, 1) if workers == 1 else (None, [])
            tasks = [
                asyncio.create_task(batcher.run(Logged(key, log), place))
                for place, key in enumerate(keys)
            ]
            if door:
                await until_waiting(batcher, len(keys))
                for place in leaving:
                    tasks[place].cancel()
                await until_waiting(batcher, len(keys) - len(leaving))
                door.open.set()
            await asyncio.sleep(0)  # every task has asked
            if awaited:
                await asyncio.gather(*tasks, *occupied, return_exceptions=True)
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(script())
    left = leaving if workers == 1 else set()
    for place, (key, answer) in enumerate(zip(keys, answers, strict=True)):
        if place in left:
            assert isinstance(answer, asyncio.CancelledError)
        elif key % 2:
            assert isinstance(answer, ValueError)
        else:
            assert answer == (key, place)
    worked = [place for _, batch in log for place in batch]
    assert sorted(worked) == [place for place in range(len(keys)) if place not in left]
    assert all(len(batch) <= size for _, batch in log)
    assert all(keys[place] == key for key, batch in log for place in batch)
    if workers == 1:  # in order of arrival, for each kind of work
        for key in set(keys):
            order = [place for its_key, batch in log for place in batch if its_key == key]
            assert order == sorted(order)


def test_a_batch_is_what_waits_when_a_worker_becomes_free():
    log = []

    async def script():
        async with Batcher(batch_size=4, workers=1) as batcher:
            door, occupied = await occupy(batcher, 1)
            tasks = [asyncio.create_task(batcher.run(Logged(0, log), i)) for i in range(6)]
            await until_waiting(batcher, 6)
            door.open.set()
            await asyncio.gather(*tasks, *occupied)

    asyncio.run(script())
    assert [len(batch) for _, batch in log] == [4, 2]


def test_the_first_item_of_an_idle_queue_does_not_wait_for_company():
    log = []

    async def script():
        async with Batcher(batch_size=4, workers=1) as batcher:
            return [await batcher.run(Logged(0, log), place) for place in range(3)]

    assert asyncio.run(script()) == [(0, 0), (0, 1), (0, 2)]
    assert [len(batch) for _, batch in log] == [1, 1, 1]


def test_a_few_items_are_shared_among_idle_workers():
    sizes = []

    async def script():
        batcher = Batcher(batch_size=4, workers=2, on_batch=lambda size, _: sizes.append(size))
        async with batcher:
            await asyncio.sleep(0)  # both workers wait
            await asyncio.gather(*(batcher.run(Logged(0, []), place) for place in range(4)))

    asyncio.run(script())
    assert sizes == [2, 2]


def test_who_leaves_while_the_batch_runs_does_not_disturb_the_others():
    async def script():
        async with Batcher(batch_size=2, workers=1) as batcher:
            door, occupied = await occupy(batcher, 1)
            shared = Door()
            one, other = (asyncio.create_task(batcher.run(shared, name)) for name in "ab")
            await until_waiting(batcher, 2)
            door.open.set()
            assert await asyncio.to_thread(shared.entered.acquire, timeout=30)
            one.cancel()
            shared.open.set()
            await asyncio.gather(*occupied)
            return await asyncio.gather(one, other, return_exceptions=True)

    gone, answer = asyncio.run(script())
    assert isinstance(gone, asyncio.CancelledError)
    assert answer == "b"


def test_a_closed_queue_takes_nothing():
    async def script():
        batcher = Batcher(batch_size=2, workers=1)
        async with batcher:
            pass
        await batcher.run(Logged(0, []), 1)

    with pytest.raises(RuntimeError, match="closing"):
        asyncio.run(script())


def test_closing_finishes_what_waits():
    async def script():
        async with Batcher(batch_size=2, workers=1) as batcher:
            door, occupied = await occupy(batcher, 1)
            tasks = [asyncio.create_task(batcher.run(Logged(0, []), place)) for place in range(5)]
            await until_waiting(batcher, 5)
            door.open.set()
        await asyncio.gather(*occupied)
        return await asyncio.gather(*tasks)

    assert asyncio.run(script()) == [(0, place) for place in range(5)]
