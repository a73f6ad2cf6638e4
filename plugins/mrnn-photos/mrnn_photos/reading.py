"""Files of a folder that may be a stranger's."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_file(path: Path, most: int) -> bytes:
    """Return what an ordinary file of at most ``most`` bytes holds.

    Raises:
        ValueError: it is a link, no ordinary file, or larger.
        OSError: it cannot be read.
    """
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link, which may lead anywhere")
    with open(path, "rb", opener=_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is no ordinary file")
        if status.st_size > most:
            raise ValueError(f"{path.name} is larger than {most >> 20} MiB")
        return file.read(most)


def _at_once(path: str, flags: int) -> int:
    # Neither waits for a pipe nor follows a link that has just come.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
