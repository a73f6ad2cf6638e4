"""Files that are replaced whole: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, through: bool = False, keep_mtime: bool = False) -> Iterator[BinaryIO]:
    """Give a file whose content takes the place of ``path`` when the block ends.

    Where the block fails, ``path`` stays as it was. Owner, permissions and extended attributes are
    kept where the system lets us.

    Args:
        path: a link, a pipe or a device is replaced as a file is: in a stranger's folder it may
            lead anywhere.
        through: for a path that the user named: links are followed, and a pipe or a device is
            written to as the content comes.
        keep_mtime: whether the time of the last change is kept as well.

    Raises:
        OSError: the file cannot be written.
    """
    if through and path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path)) if through else path
    # Of a fixed length: the name of the target may be as long as the file system allows.
    scratch = target.with_name(f".mrnn-{os.urandom(6).hex()}.partial")
    try:
        with scratch.open("xb") as file:
            yield file
            if replaces := target.is_file() and not target.is_symlink():
                file.flush()
                os.fsync(file.fileno())  # or a power cut may leave neither content
        if replaces:
            _make_like(scratch, target, keep_mtime=keep_mtime)
        scratch.replace(target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def _make_like(scratch: Path, target: Path, *, keep_mtime: bool) -> None:
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may give a file away
            owner = target.stat()
            os.chown(scratch, owner.st_uid, owner.st_gid)
    shutil.copystat(target, scratch)
    if not keep_mtime:
        os.utime(scratch)


def replace_file(
    path: Path, content: bytes, *, through: bool = False, keep_mtime: bool = False
) -> None:
    """Write a file as ``replacing`` does.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path, through=through, keep_mtime=keep_mtime) as file:
        file.write(content)
