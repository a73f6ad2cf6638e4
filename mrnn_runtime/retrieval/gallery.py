"""Encoded photos, and a cache of them: the CNN runs once a photo, not once a question."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.archives import read_archive
from mrnn_runtime.bundle.atomic import replacing
from mrnn_runtime.engine.inputs import NamedImage, find_images, read_images
from mrnn_runtime.engine.parallel import Budget
from mrnn_runtime.engine.prepared import cache_folder
from mrnn_runtime.errors import UsageError
from mrnn_runtime.types import EncodedImages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.captioner import Captioner
    from mrnn_runtime.errors import ImageError

    Watch = Callable[[Iterator[Path], int], Iterator[Path]]

_PHOTOS = 8
_INPUTS = "inputs/"  # what names of image inputs begin with in a cache
_MEMORY = 1_200_000_000  # bytes that a photo may take while it is read
_MOST_BYTES = 2**34  # of a cache; a damaged one may claim any number

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Encoded photos.

    Attributes:
        paths: of the photos that could be read.
        images: what the encoder made of them.
        errors: by path, why another could not be read.
    """

    paths: tuple[Path, ...]
    images: EncodedImages
    errors: Mapping[Path, ImageError]

    def blocks(self) -> Iterator[EncodedImages]:
        """Yield the photos: all of them, as they are in memory."""
        yield self.images

    def path(self, row: int) -> Path:
        """Return the path of a photo."""
        return self.paths[row]


def default_cache() -> Path | None:
    """Return the folder where encoded photos are kept where no other is named; None without one."""
    try:
        return cache_folder() / "search"
    except UsageError as error:
        _log.warning("%s; the next query encodes again", error)
        return None


def open_gallery(
    captioner: Captioner,
    paths: Sequence[str | Path],
    *,
    cache: Path | None = None,
    watch: Watch = lambda photos, _: photos,
) -> Gallery:
    """Encode photos, or take from the cache what was made of them before.

    A photo is taken from the cache while its size and its time of change are the same.

    Args:
        captioner: a loaded model.
        paths: photos, and folders that are walked recursively.
        cache: the folder where encoded photos are kept, so that the next query does not encode them
            again; None keeps nothing.
        watch: is given the photos that must be encoded, and their number, and passes them on.

    Raises:
        UsageError: a path does not exist.
    """
    files = find_images(paths)
    file = cache and cache / f"{_key(captioner.bundle, paths)}.npz"
    blank = captioner.encode([])
    known = _load(file, blank) if file else {}
    stamps = {path: _stamp(path) for path in files}
    fresh = [path for path in files if _name(path, stamps[path]) not in known]
    errors: dict[Path, ImageError] = {}
    watched = iter(watch(iter(fresh), len(fresh)))
    while batch := list(islice(watched, _PHOTOS)):
        known |= _encode(captioner, batch, stamps, errors)
    kept = [path for path in files if path not in errors]
    names = [_name(path, stamps[path]) for path in kept]
    if file and fresh:
        _save(file, {name: known[name] for name in names})
    encoded = joined([blank, *(known[name] for name in names)])
    return Gallery(tuple(kept), encoded, errors)


def _encode(
    captioner: Captioner,
    batch: Sequence[Path],
    stamps: Mapping[Path, tuple[int, int]],
    errors: dict[Path, ImageError],
) -> dict[str, EncodedImages]:
    named = [NamedImage(str(path), path) for path in batch]
    pixels, unreadable = read_images(named, captioner.bundle.preprocess, Budget(_MEMORY).claims)
    errors |= {path: error for path, error in zip(batch, unreadable, strict=True) if error}
    readable = [path for path in batch if path not in errors]
    if not readable:
        return {}
    images = captioner.encoder.encode(pixels)
    return {
        _name(path, stamps[path]): images.take(np.array([row])) for row, path in enumerate(readable)
    }


def joined(parts: Sequence[EncodedImages]) -> EncodedImages:
    """Return the images of all parts, at least one, of one encoder, in order."""
    return EncodedImages(
        inputs={
            name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs
        },
        reference_feature=np.concatenate([part.reference_feature for part in parts]),
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # reading it will say why
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def _name(path: Path, stamp: tuple[int, int]) -> str:
    return json.dumps([os.path.abspath(path), *stamp])


def _key(bundle: Bundle, paths: Sequence[str | Path]) -> str:
    """Return the name of the cache of one encoder, its recipe and one choice of photos."""
    places = sorted(os.path.abspath(path) for path in paths)
    facts = [bundle.files[bundle.encoder.file].sha256, asdict(bundle.preprocess), *places]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _load(file: Path, blank: EncodedImages) -> dict[str, EncodedImages]:
    """Return what a cache holds, by name and stamp; of a damaged one nothing.

    Args:
        file: the cache.
        blank: no images, as the encoder returns them.
    """
    if not file.is_file():
        return {}
    try:
        arrays = read_archive(file, most=_MOST_BYTES)
        names = json.loads(arrays.pop("names").tobytes())
        feature = arrays.pop("reference_feature")
        images = EncodedImages({key.removeprefix(_INPUTS): a for key, a in arrays.items()}, feature)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are no list of texts")
        if images.inputs.keys() != blank.inputs.keys():
            raise ValueError(f"it holds {', '.join(sorted(images.inputs))}")
        pairs: list[tuple[NDArray[Any], NDArray[Any]]]
        pairs = [(images.reference_feature, blank.reference_feature)]
        pairs += [(images.inputs[name], blank.inputs[name]) for name in blank.inputs]
        for array, like in pairs:
            shape = (len(names), *like.shape[1:])
            if array.dtype != like.dtype or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"it holds {array.dtype} {list(array.shape)}, not {list(shape)}")
        return {name: images.take(np.array([row])) for row, name in enumerate(names)}
    except (ValueError, LookupError, RecursionError) as error:
        _log.warning("%s is damaged and made again: %s", file, error)
        return {}


def _save(file: Path, known: Mapping[str, EncodedImages]) -> None:
    if not known:
        return
    parts = list(known.values())
    images = joined(parts)
    arrays: dict[str, Any] = {f"{_INPUTS}{name}": array for name, array in images.inputs.items()}
    names = np.frombuffer(json.dumps(list(known)).encode(), np.uint8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            np.savez(
                stream,
                allow_pickle=False,
                names=names,
                reference_feature=images.reference_feature,
                **arrays,
            )
    except OSError as error:
        _log.warning("%s cannot be written, the next query encodes again: %s", file, error)
