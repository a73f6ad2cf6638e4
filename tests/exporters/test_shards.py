"""Shards of features: whatever is cut off, damaged or written at once, what was added is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_exporters import shards
from mrnn_exporters.shards import Rows, Store
from mrnn_runtime.errors import MrnnError

WIDTH = 3
RECORD = 4 + 16 + 2 * WIDTH


def row(number: int) -> np.ndarray:
    return np.array([number, number % 7, -number], np.float16)


def add(store: Store, numbers: range | list[int]) -> None:
    with store.locked():
        store.add([str(i) for i in numbers], np.stack([row(i) for i in numbers]))


def held(store: Store, numbers: range | list[int]) -> list[int]:
    """Which of the numbers are there, each with its own row."""
    rows = store.read([str(i) for i in numbers])
    there = np.flatnonzero(~rows.missing)
    assert all(np.array_equal(rows[i], row(numbers[i])) for i in there)
    return [numbers[i] for i in there]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four entries a shard."""
    monkeypatch.setattr(shards, "ROWS", 4)


@pytest.mark.usefixtures("small")
def test_entries_are_mapped_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", WIDTH)
    assert store.read(["0"]).missing.tolist() == [True]
    add(store, range(6))
    add(store, range(6, 11))
    assert [path.name for path in sorted(store.folder.glob("*.shard"))] == [
        "00000.shard",
        "00001.shard",
        "00002.shard",
    ]
    assert held(store, [10, 3, 99, 3, 0]) == [10, 3, 3, 0]
    rows = store.read(["5", "no"])
    assert len(rows) == 2 and not rows[0].flags.writeable and not rows[0].flags.owndata
    with pytest.raises(IndexError):
        rows[1]
    assert len(store.read([])) == 0


@pytest.mark.usefixtures("small")
def test_the_last_entry_of_a_key_counts(tmp_path: Path) -> None:
    store = Store(tmp_path, WIDTH)
    add(store, range(4))
    with store.locked():
        store.add(["2"], row(50)[None])
    assert store.read(["2"])[0].tolist() == row(50).tolist()


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_damage_costs_the_entries_that_it_hits_and_they_come_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("store"), WIDTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS", 4)
        every = range(data.draw(st.integers(1, 12)))
        add(store, every)
        paths = sorted(store.folder.glob("*.shard"))
        path = data.draw(st.sampled_from(paths))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] ^= data.draw(st.integers(1, 255))
            hit = {4 * paths.index(path) + place // RECORD}
        else:
            del content[place:]
            hit = {i for i in every if i // 4 == paths.index(path) and i % 4 >= place // RECORD}
        path.write_bytes(content)
        assert held(store, every) == [i for i in every if i not in hit]
        add(store, sorted(hit))
        assert held(store, every) == list(every)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from mrnn_exporters.shards import Store

store, start, stop = Store(Path(sys.argv[1]), 3), int(sys.argv[2]), int(sys.argv[3])
for i in range(start, stop):
    with store.locked():
        store.add([str(i)], np.array([[i, i % 7, -i]], np.float16))
    print(i, flush=True)
"""


def test_processes_that_add_at_once_lose_none_of_their_entries(tmp_path: Path) -> None:
    """The first one is killed at some moment; what it said it had added stays."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    first, second = (
        subprocess.Popen([*command, str(at), str(at + 60)], stdout=subprocess.PIPE, text=True)
        for at in (0, 100)
    )
    with first, second:
        assert first.stdout is not None
        said = [first.stdout.readline() for _ in range(10)]
        first.kill()
        said += first.communicate(timeout=60)[0].splitlines()
        second.communicate(timeout=60)
    assert first.returncode < 0 and second.returncode == 0
    store = Store(tmp_path, WIDTH)
    assert held(store, range(100, 160)) == list(range(100, 160))
    assert set(map(int, said)) <= set(held(store, range(60)))


def test_rows_of_arrays_in_memory() -> None:
    rows = Rows([np.ones((1, 2), np.float16)], np.array([0, -1]))
    assert rows[0].tolist() == [1, 1] and rows.missing.tolist() == [False, True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_disk_that_is_full_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path, WIDTH)
    (tmp_path / "00000.shard").symlink_to("/dev/full")
    with pytest.raises(MrnnError, match="cannot be written") as caught:
        add(store, [1])
    assert "--cache" in (caught.value.hint or "")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MrnnError, match="cannot be written"):
        add(Store(tmp_path / "file" / "store", WIDTH), [1])
