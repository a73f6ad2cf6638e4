"""Photos as they arrive in folders.

What a folder holds is looked at anew whenever something changes in it, and once a minute, since
some file systems, of networks mostly, tell of no changes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles import watch

from mrnn_runtime import UsageError
from mrnn_runtime.build import find_images

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from mrnn_runtime import Caption

_TICK_MS = 1000  # after which the watcher says that nothing happened
_LOOK_SECONDS = 60.0  # after which a folder is looked at all the same
_SETTLED_SECONDS = 2.0  # for which a file has not changed that is taken to be whole


def check(paths: Iterable[str]) -> None:
    """Refuse what cannot be watched.

    Raises:
        UsageError: a path is no folder.
    """
    for path in paths:
        if not Path(path).is_dir():
            raise UsageError(f"{path} is no folder", hint="--watch waits for photos in folders")


def photos_in(folders: Iterable[str]) -> list[Path]:
    """Return the photos that folders hold; one may be empty, or away for a while."""
    photos: list[Path] = []
    for folder in folders:
        try:
            photos += find_images([folder])
        except UsageError:
            continue
    return photos


def captions(
    folders: Iterable[str], done: set[Path], describe: Callable[[list[Path]], Iterable[Caption]]
) -> Generator[Caption]:
    """Yield captions of photos as they arrive, those that are there and not done first.

    Args:
        folders: where to expect them.
        done: photos that are done; whoever writes the captions adds those that are written.
        describe: captions photos.
    """

    def waiting() -> list[Path]:
        return [photo for photo in photos_in(folders) if photo not in done]

    for photos in arrivals(folders, waiting):
        yield from describe(photos)


def arrivals(folders: Iterable[str], look: Callable[[], list[Path]]) -> Iterator[list[Path]]:
    """Yield photos as they arrive, those that are there first; it has no end.

    Args:
        folders: where to expect them.
        look: returns the photos that wait to be captioned.
    """
    ticks = watch(
        *folders,
        watch_filter=None,
        rust_timeout=_TICK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    # The watcher starts with the first tick; what comes before it, the first look sees.
    return whole_ones(look, (bool(changes) for changes in ticks))


def whole_ones(
    look: Callable[[], list[Path]],
    ticks: Iterator[bool],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[list[Path]]:
    """Yield the photos that wait and have stayed the same for a while.

    One that still waits after it was yielded has failed; it is yielded again when it has changed.

    Args:
        look: returns the photos that wait.
        ticks: whether something may have changed; looking goes on with each of them.
        clock: tells the seconds.
    """
    since: dict[Path, tuple[object, float]] = {}  # what a photo is like, and since when
    failed: dict[Path, object] = {}
    looked = float("-inf")
    for changed in ticks:
        now = clock()
        if not (changed or since or now - looked >= _LOOK_SECONDS):
            continue
        looked = now
        states = {path: state for path in look() if (state := _state(path)) is not None}
        failed = {path: state for path, state in failed.items() if states.get(path) == state}
        since = {
            path: since[path] if path in since and since[path][0] == state else (state, now)
            for path, state in states.items()
            if path not in failed
        }
        settled = [path for path, (_, at) in since.items() if now - at >= _SETTLED_SECONDS]
        if settled:
            yield settled
            failed |= {path: since.pop(path)[0] for path in settled}


def _state(path: Path) -> object:
    """Return what changes when a file does, or None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino)
