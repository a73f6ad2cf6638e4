"""A file of arrays, read so that it can neither run code nor fill the memory."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MOST_BYTES = 2**26  # unpacked: a few kB may hold gigabytes of zeros


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file, by name.

    Raises:
        ValueError: it is none, is damaged, or unpacks to more than MOST_BYTES.
    """
    try:
        # np.load leaves a file open that it opened itself and found damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if sum(member.file_size for member in archive.zip.infolist()) > MOST_BYTES:
                raise ValueError(f"it holds more than {MOST_BYTES >> 20} MB")
            return dict(archive)
    except (OSError, EOFError, TypeError, LookupError, MemoryError) as error:
        raise ValueError(str(error)) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error
