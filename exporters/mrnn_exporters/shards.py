"""Arrays on disk, one a key, in files that are only appended to and that every process maps.

A store is a folder of ``00000.shard``, ``00001.shard``, ...: records of a checksum, a digest of the
key and float16 [d]. Whatever a kill leaves behind is either a whole record or ignored: a reader
takes what its checksum vouches for, and the last record of a key counts.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from mrnn_runtime import MrnnError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ROWS = 8192  # of a shard
_KEY = 16  # bytes of a key's digest
_SUM = 4  # bytes of the checksum, which stands before what it is of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of several arrays, in an order of their own; nothing is copied until it is asked for.

    Attributes:
        shards: float16 [m, d] each, m at most ``ROWS``; read-only where they are files.
        places: int64 [n], ROWS * shard + row; -1 for a row that is missing.
    """

    shards: Sequence[NDArray[np.float16]]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the rows, the missing ones too."""
        return len(self.places)

    def __getitem__(self, row: int) -> NDArray[np.float16]:
        """Return a row that is there, float16 [d].

        Raises:
            IndexError: it is missing.
        """
        place = int(self.places[row])
        if place < 0:
            raise IndexError(f"row {row} is missing")
        values: NDArray[np.float16] = self.shards[place // ROWS][place % ROWS]
        return values

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which rows are missing, bool [n]."""
        return self.places < 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes out that would write there; wait for one that does.

    Raises:
        MrnnError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            _log.warning("another run writes to %s; waiting for it", folder)
            held = lock.acquire()
    except OSError as error:
        raise unwritable(folder, error) from error
    with held:
        yield


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of shards.

    Attributes:
        folder: theirs alone; it need not exist.
        width: d, numbers of an entry.
    """

    folder: Path
    width: int

    def read(self, keys: Sequence[str]) -> Rows:
        """Map the entries of ``keys``; those that are damaged are missing."""
        shards = [self._map(path) for path in self._paths()]
        known = [np.empty(0, f"S{_KEY}"), *(shard["key"] for shard in shards)]
        # A place is that of the shard, so a short one counts as if it were full.
        places = [np.empty(0, np.int64)]
        places += [i * ROWS + np.arange(len(shard)) for i, shard in enumerate(shards)]
        rows = _look_up(np.concatenate(known), np.concatenate(places), _digests(keys))
        for row, place in enumerate(rows):
            if place >= 0 and not _is_whole(shards[place // ROWS], place % ROWS):
                rows[row] = -1
        return Rows([shard["value"] for shard in shards], rows)

    def locked(self) -> AbstractContextManager[None]:
        """As :func:`locked`, for those that would add entries."""
        return locked(self.folder)

    def add(self, keys: Sequence[str], values: NDArray[np.float16]) -> None:
        """Append entries, float16 [n, d]; they stay after a kill. Call it within ``locked``.

        Raises:
            MrnnError: they cannot be written.
        """
        records = np.empty(len(keys), _record(self.width))
        records["key"], records["value"] = _digests(keys), values
        for row, record in enumerate(_raw(records)):
            records["sum"][row] = zlib.crc32(record[_SUM:])
        paths = self._paths()
        number = int(paths[-1].stem) if paths else 0
        try:
            while len(records):
                with (self.folder / f"{number:05}.shard").open("ab", buffering=0) as file:
                    whole = file.tell() // records.itemsize
                    file.truncate(whole * records.itemsize)  # half a record that a kill left
                    part = records[: max(0, ROWS - whole)]
                    if file.write(part.tobytes()) != part.nbytes:
                        raise OSError("no space left")
                records = records[len(part) :]
                number += 1
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]" * 5 + ".shard"))

    def _map(self, path: Path) -> NDArray[np.void]:
        record = _record(self.width)
        count = min(ROWS, path.stat().st_size // record.itemsize)
        if not count:  # which cannot be mapped
            return np.empty(0, record)
        return np.asarray(np.memmap(path, record, "r", shape=(count,)))


def _record(width: int) -> np.dtype[np.void]:
    return np.dtype([("sum", "<u4"), ("key", f"S{_KEY}"), ("value", "<f2", (width,))])


def _raw(records: NDArray[np.void]) -> NDArray[np.uint8]:
    """Return the bytes of records, uint8 [n, bytes of a record], without copying them."""
    return records.view(np.uint8).reshape(len(records), records.itemsize)


def _is_whole(records: NDArray[np.void], row: int) -> bool:
    (record,) = _raw(records[row : row + 1])
    return bool(zlib.crc32(record[_SUM:]) == records["sum"][row])


def _digests(keys: Sequence[str]) -> NDArray[np.bytes_]:
    joined = b"".join(hashlib.sha256(key.encode()).digest()[:_KEY] for key in keys)
    return np.frombuffer(joined, f"S{_KEY}")


def _look_up(
    known: NDArray[np.bytes_], places: NDArray[np.int64], wanted: NDArray[np.bytes_]
) -> NDArray[np.int64]:
    """Return the place of each wanted key, the last one if it has several, else -1."""
    if not len(known):
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    last = order[np.maximum(0, np.searchsorted(known[order], wanted, "right") - 1)]
    return np.where(known[last] == wanted, places[last], -1)


def unwritable(folder: Path, error: OSError) -> MrnnError:
    """Return the error for a folder of the cache."""
    return MrnnError(
        f"{folder} cannot be written: {error.strerror or error}",
        hint="make room there, or name another folder (--cache)",
    )
