"""Graphs as ONNX Runtime has prepared them, kept for the next process: most of a start is that.

A prepared graph is for one kind of CPU, and has operators of ONNX Runtime's own that no bundle may
bring. So it is made here, of a graph that was checked; it lies where nobody else may write; and its
name says what it was made of and what it holds.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WORTH = 2**20  # bytes of a graph; smaller ones are prepared in no time
_MOST = 8  # graphs that are kept
_CPU = Path("/proc/cpuinfo")
_OTHERS_WRITE = 0o022


def cache_folder() -> Path:
    """Return the folder below which all caches are kept where no other is named.

    Raises:
        UsageError: the user has no home, and XDG_CACHE_HOME names no absolute path.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    folder = named if os.path.isabs(named) else os.path.expanduser("~/.cache")
    if not os.path.isabs(folder):
        raise UsageError("there is no home folder to keep a cache in", hint="set XDG_CACHE_HOME")
    return Path(folder, "mrnn")


def place_of(graph: str, *facts: object) -> Path | None:
    """Return what names begin with of files that hold a graph as it is prepared on this machine.

    Args:
        graph: sha256 of its file.
        facts: what its prepared form depends on, beside the CPU.

    Returns:
        The path, or None where the CPU is not known or no folder is this user's alone.
    """
    # No such file of the system, no home, no permission; no owners of files.
    with suppress(OSError, UsageError, AttributeError):
        with _CPU.open() as file:  # all cores are alike; a large machine lists hundreds
            lines = file.read(2**13).partition("\n\n")[0].splitlines()
        cpu = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
        folder = cache_folder() / "graphs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        if cpu and state.st_uid == os.getuid() and not state.st_mode & _OTHERS_WRITE:
            key = hashlib.sha256(repr((graph, facts, cpu)).encode()).hexdigest()
            return folder / key[:32]
    return None


def kept(place: Path) -> bytes | None:
    """Return the prepared graph; None where it is not there, or damaged."""
    with suppress(OSError):
        for path in place.parent.glob(f"{place.name}-*.onnx"):
            data = path.read_bytes()
            if path.name == _name(place, data):
                return data
    return None


def keep(place: Path, prepare: Callable[[str], T]) -> T | None:
    """Keep what ``prepare`` writes to the file that it is given, and the newest of what is there.

    Returns:
        What it returns; None where something fails, as on a full disk.
    """
    scratch = place.with_name(f".mrnn-{os.urandom(6).hex()}.partial")
    try:
        result = prepare(str(scratch))
        scratch.replace(place.with_name(_name(place, scratch.read_bytes())))
        files = sorted(place.parent.glob("*.onnx"), key=lambda path: path.stat().st_mtime)
        for path in files[:-_MOST]:
            path.unlink(missing_ok=True)
    except Exception:  # those of ONNX Runtime share no base
        return None
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    return result


def _name(place: Path, data: bytes) -> str:
    return f"{place.name}-{hashlib.sha256(data).hexdigest()}.onnx"
