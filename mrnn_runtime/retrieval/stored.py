"""A gallery on disk, as large as the disk: read block by block, never as a whole.

A folder with ``gallery.json`` (what encoded the photos, and how many there are), ``NAME.npy`` for
each image input, float16 [n, ...], ``paths.txt`` (JSON strings, one a line) and ``offsets.npy``,
int64 [n + 1], where each line begins. ``mrnn ray index`` writes one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.errors import UsageError
from mrnn_runtime.types import EncodedImages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from mrnn_runtime.captioner import Captioner

_BLOCK = 8192


@dataclass(frozen=True, slots=True, eq=False)
class StoredGallery:
    """Encoded photos on disk.

    Attributes:
        inputs: float16 [n, ...] each, memory-mapped.
        offsets: int64 [n + 1], memory-mapped: where the lines of ``names`` begin.
        names: the file of the paths.
    """

    inputs: Mapping[str, NDArray[np.float16]]
    offsets: NDArray[np.int64]
    names: Path

    def __len__(self) -> int:
        """Return n."""
        return len(self.offsets) - 1

    def blocks(self) -> Iterator[EncodedImages]:
        """Yield the photos in order, some at a time; no reference features."""
        for start in range(0, len(self), _BLOCK):
            some = {
                name: np.asarray(array[start : start + _BLOCK], np.float32)
                for name, array in self.inputs.items()
            }
            count = min(_BLOCK, len(self) - start)
            yield EncodedImages(some, np.zeros((count, 1), np.float32))

    def path(self, row: int) -> Path:
        """Return the path of a photo.

        Raises:
            UsageError: its line is damaged, or cannot be read.
        """
        start, end = self.offsets[row : row + 2].tolist()
        try:
            with self.names.open("rb") as file:
                file.seek(start)
                return Path(json.loads(file.read(end - start)))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise _damaged(self.names.parent, f"line {row + 1} of its paths: {error}") from error


def open_stored(captioner: Captioner, folder: Path) -> StoredGallery:
    """Open a gallery; nothing of it is read yet.

    Raises:
        UsageError: there is none, it is damaged, or another encoder's.
    """
    blank = captioner.encode([])
    try:
        facts: Any = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        encoder = captioner.bundle.files[captioner.bundle.encoder.file].sha256
        if facts["encoder"] != encoder:
            raise UsageError(
                f"{folder} was made with another model than {captioner.bundle.name}",
                hint=f"it says {facts.get('model')!r}: name that one with --model",
            )
        count = facts["photos"]
        offsets: NDArray[np.int64] = np.load(folder / "offsets.npy", mmap_mode="r")
        inputs: dict[str, NDArray[np.float16]] = {}
        for name, like in blank.inputs.items():
            array: NDArray[np.float16] = np.load(folder / f"{name}.npy", mmap_mode="r")
            if array.dtype != np.float16 or array.shape != (count, *like.shape[1:]):
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
            inputs[name] = array
        if offsets.dtype != np.int64 or offsets.shape != (count + 1,):
            raise ValueError(f"offsets are {offsets.dtype} {list(offsets.shape)}")
        names = folder / "paths.txt"
        if (size := names.stat().st_size) != offsets[-1]:
            raise ValueError(f"{names.name} has {size} bytes, not {offsets[-1]}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(folder, error) from error
    return StoredGallery(inputs, offsets, names)


def _damaged(folder: Path, why: object) -> UsageError:
    return UsageError(
        f"{folder} holds no gallery that can be read: {why}", hint="mrnn ray index writes one"
    )
