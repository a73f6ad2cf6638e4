"""Files that are replaced whole: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, through: bool = False) -> Iterator[BinaryIO]:
    """Give a file whose content takes the place of ``path`` when the block ends.

    Where the block fails, ``path`` stays as it was. Permissions are kept.

    Args:
        path: a link, a pipe or a device is replaced as a file is: in a stranger's folder it may
            lead anywhere.
        through: for a path that the user named: links are followed, and a pipe or a device is
            written to as the content comes.

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
        with suppress(FileNotFoundError):
            before = target.lstat().st_mode
            if S_ISREG(before):
                scratch.chmod(S_IMODE(before))
        scratch.replace(target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes, *, through: bool = False) -> None:
    """Write a file as ``replacing`` does.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path, through=through) as file:
        file.write(content)
