"""A file of arrays, read so that it can neither run code nor fill the memory."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

MOST_BYTES = 2**26  # unpacked: a few kB may hold gigabytes of zeros
_MOST_LISTED = 2**16  # bytes of the list of members


def read_archive(path: Path, most: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file, by name.

    Args:
        path: the file.
        most: bytes that it may unpack to.

    Raises:
        ValueError: it is none, is damaged, or unpacks to more.
    """
    try:
        # np.load leaves a file open that it opened itself and found damaged.
        with path.open("rb") as stream:
            _check_list(stream, most)
            with np.load(stream, allow_pickle=False) as archive:
                if sum(member.file_size for member in archive.zip.infolist()) > most:
                    raise ValueError(f"it holds more than {most >> 20} MB")
                arrays = dict(archive)
    except (OSError, EOFError, TypeError, LookupError, MemoryError, ArithmeticError) as error:
        raise ValueError(str(error)) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a member without the mark of an array
            raise ValueError(f"{name} is no array")
    return arrays


def _check_list(stream: BinaryIO, most: int) -> None:
    """Refuse a zip file whose list of members is long: they become objects before one is asked for.

    The end of the file says how long; that of a file beyond 4 GB stands before it.
    """
    stream.seek(-42, 2)
    end = stream.read()
    stream.seek(0)
    size = int.from_bytes(end[32:36], "little")
    if end[20:24] != b"PK\5\6" or (end[:4] == b"PK\6\7" and most < 2**32):
        raise ValueError("it does not end as a list of arrays does")
    if size > _MOST_LISTED and most < 2**32:
        raise ValueError("it holds too many arrays")
