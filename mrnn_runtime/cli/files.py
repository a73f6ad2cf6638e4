"""The files that a run writes: none is a photo or another of them, and no second run writes it."""

from __future__ import annotations

import glob
import os
import sys
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.cli import output as speech
from mrnn_runtime.errors import MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from io import FileIO

# Windows locks bytes, and does not let others read them: one that no text reaches.
_FAR = 1 << 30


def check_targets(targets: Mapping[str, Path], images: Iterable[Path]) -> None:
    """Refuse files that a run would write over each other, or over a photo.

    Args:
        targets: what is to be written, by the name of its option.
        images: the photos of the run.

    Raises:
        UsageError: two targets are one file, or one is an image.
    """
    taken: dict[object, str] = {}
    for option, path in targets.items():
        if path.exists() and not path.is_file():  # a pipe or a device may be named twice
            continue
        place = _identity(path)
        if place in taken:
            raise UsageError(
                f"{taken[place]} and {option} both name {path}", hint="choose another file for one"
            )
        taken[place] = option
    present = {place for place in taken if isinstance(place, tuple)}
    for image in images if present else ():
        place = _identity(image)
        if place in taken:
            raise UsageError(
                f"{taken[place]} names the photo {image}", hint="choose another file for it"
            )


def _identity(path: Path) -> object:
    """Return what two names of one file have in common."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    except ValueError:  # there is a zero byte in its name
        return str(path)
    return (status.st_dev, status.st_ino)


def expanded(paths: Iterable[str]) -> list[str]:
    """Return paths with patterns, such as ``photos/**/*.jpg``, replaced by what fits them, sorted.

    For shells that leave this to programs, and for patterns that are too long for them.

    Raises:
        UsageError: nothing fits a pattern.
    """
    places: list[str] = []
    for path in paths:
        if os.path.lexists(path) or not glob.has_magic(path):
            places.append(path)
            continue
        fitting = sorted(glob.glob(path, recursive=True))
        if not fitting:
            raise UsageError(f"nothing fits {path}", hint="** stands for any number of folders")
        places += fitting
    return places


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs from writing a file while the block runs.

    The lock belongs to the process, so it ends with it, however that ends. It is held on a file
    beside ``path``, since ``path`` itself may be replaced meanwhile. What is no ordinary file is
    not locked.

    Raises:
        MrnnError: another process holds the lock.
    """
    if path.exists() and not path.is_file():
        yield
        return
    target = Path(os.path.realpath(path))
    name = sha256(os.fsencode(target.name)).hexdigest()[:16]  # names may be as long as allowed
    place = target.with_name(f".mrnn-{name}.lock")
    try:
        file = _take(place, path)
    except (FileNotFoundError, NotADirectoryError):  # opening the file itself will say so
        yield
        return
    except OSError as error:
        speech.warn(
            f"warning: {path} cannot be locked ({error.strerror}); let no second run write it"
        )
        yield
        return
    with file:
        try:
            yield
        finally:
            if sys.platform != "win32":  # while the lock is held, so that nobody else takes it
                place.unlink(missing_ok=True)
    if sys.platform == "win32":
        with suppress(OSError):  # the next run has opened it
            place.unlink(missing_ok=True)


def _take(place: Path, path: Path) -> FileIO:
    """Open the file of a lock and lock it.

    Raises:
        MrnnError: another process holds the lock.
        OSError: there are no locks here.
    """
    while True:
        # In a stranger's folder, the place may be a link to anywhere, or a pipe.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.fdopen(os.open(place, flags, 0o666), "r+b", buffering=0)
        try:
            if not _lock(file.fileno()):
                said = (file.read(200) or b"").decode("utf-8", "replace")
                holder = "".join(filter(str.isprintable, said)) or "another process"
                raise MrnnError(
                    f"{path} is being written by {holder}", hint="wait for it, or stop it"
                )
            # Its holder removes the file at last: a lock on a file without a name keeps nobody out.
            if _is_at(place, file):
                import platform

                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(place: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(place))
    except FileNotFoundError:
        return False


def _lock(file: int) -> bool:
    """Lock an open file without waiting; return False where another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, _FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
