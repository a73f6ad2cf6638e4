"""What a frozen CNN makes of photos, computed once by ONNX Runtime and kept on disk.

Photos go through the runtime's own reader, so training sees the pixels that captioning will see. A
view is a way to look at a photo: ``plain``, ``mirror``, or ``crop1``, ``crop2``, ...: a window of
.75 to .95 of each side, every other one mirrored, always the same one for the same view of a photo.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mrnn_exporters.datasets import refuse_many
from mrnn_exporters.progress import on_all_cores
from mrnn_runtime import ImageError, MrnnError, UsageError, read_image
from mrnn_runtime.build import blaming, make_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import Backbone, Preprocess
    from mrnn_runtime.build import Session

# Part of every key: change it when the code below comes to compute something else.
_VERSION = 1
_BATCH = 4
_SMALLEST, _LARGEST = 0.75, 0.95
_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def features(
    backbone: Backbone, paths: Sequence[Path], view: str, cache: Path, *, name: str = "unnamed"
) -> NDArray[np.float16]:
    """Return a backbone's features of photos, computed at the first call and read later.

    Args:
        backbone: the CNN.
        paths: the photos.
        view: ``plain``, ``mirror``, or ``crop`` and a number.
        cache: the folder that holds the files of all backbones and photos.
        name: what users call the backbone, for errors.

    Returns:
        float16 [n, d], read-only, mapped from a file: memory does not grow with n. NaN where a
        photo cannot be read, see ``broken``.

    Raises:
        UsageError: an unknown view, or more than 1 % of the photos cannot be read.
        MrnnError: a feature does not fit float16.
        PluginError: the backbone cannot be exported to ONNX.
    """
    if not re.fullmatch(r"plain|mirror|crop\d+", view):
        raise UsageError(f"unknown view {view!r}", hint="use plain, mirror, crop1, crop2, ...")
    with blaming(f"backbone {name!r}"):
        net = _identity(backbone)
    keys = [_stamp(path) for path in paths]
    values = _mapped((len(paths), backbone.feature_size), cache)
    with _store(cache / "features" / f"{net}-{view}.sqlite") as store:
        left = _read(store, keys, values)
        if left:
            with blaming(f"backbone {name!r}"):
                graph = _graph(backbone, cache / "backbones" / f"{net}.onnx")
            session = make_session(graph, "cpu", 1)
            chunks = [left[i : i + _BATCH] for i in range(0, len(left), _BATCH)]
            job = partial(_chunk, session, backbone.preprocess, view, paths)
            for rows, block in on_all_cores(job, chunks, f"features, {view}"):
                values[rows] = block
                _write(store, [keys[row] for row in rows], block)
    values.flags.writeable = False
    _refuse_broken(values, paths)
    return values


def broken(values: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Return which rows of features, float16 [n, d], belong to photos that cannot be read."""
    return np.isnan(values[:, 0])


def read_view(path: Path, preprocess: Preprocess, view: str) -> NDArray[np.uint8]:
    """Read one view of a photo, uint8 [h, w, 3].

    Raises:
        ImageError: the photo cannot be read.
    """
    if view == "plain":
        return read_image(path, preprocess)
    if view == "mirror":
        return read_image(path, preprocess)[:, ::-1]
    # Read so large that even the smallest window is not enlarged again.
    size = (preprocess.height, preprocess.width)
    height, width = (round(side / _SMALLEST) for side in size)
    image = read_image(path, replace(preprocess, height=height, width=width))
    rng = np.random.default_rng(list(hashlib.sha256(f"{view}/{path.name}".encode()).digest()))
    rows = round(height * rng.uniform(_SMALLEST, _LARGEST))
    columns = round(width * rng.uniform(_SMALLEST, _LARGEST))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    window = Image.fromarray(image[top : top + rows, left : left + columns])
    resized = window.resize(size[::-1], _INTERPOLATIONS[preprocess.interpolation])
    return np.asarray(resized)[:, :: rng.choice((-1, 1))]


def _mapped(shape: tuple[int, int], folder: Path) -> NDArray[np.float16]:
    """Return an array of NaN in a file without a name, which goes when the array does."""
    if 0 in shape:  # which cannot be mapped
        return np.empty(shape, np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        row = np.full(shape[1], np.nan, np.float16).tobytes()
        for start in range(0, shape[0], 1024):
            file.write(row * min(1024, shape[0] - start))
        file.flush()
        return np.memmap(file, np.float16, "r+", shape=shape)


@contextmanager
def _store(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file that holds a feature of each photo; what is written stays after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store = sqlite3.connect(path, timeout=60)
    try:
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("CREATE TABLE IF NOT EXISTS features (photo TEXT PRIMARY KEY, value BLOB)")
        yield store
    finally:
        store.close()


def _read(store: sqlite3.Connection, keys: Sequence[str], values: NDArray[np.float16]) -> list[int]:
    """Fill in the rows that are known; return the others."""
    left = []
    for row, key in enumerate(keys):
        known = store.execute("SELECT value FROM features WHERE photo = ?", (key,)).fetchone()
        if known is None:
            left.append(row)
        else:
            values[row] = np.frombuffer(known[0], np.float16)
    return left


def _write(store: sqlite3.Connection, keys: Sequence[str], values: NDArray[np.float16]) -> None:
    rows = [(key, value.tobytes()) for key, value in zip(keys, values, strict=True)]
    with store:
        store.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)


def _chunk(
    session: Session, preprocess: Preprocess, view: str, paths: Sequence[Path], chunk: Sequence[int]
) -> tuple[list[int], NDArray[np.float16]]:
    """Return the rows whose photos can be read, and their features."""
    images: dict[int, NDArray[np.uint8]] = {}
    for row in chunk:
        try:
            images[row] = read_view(paths[row], preprocess, view)
        except ImageError:
            continue
    if not images:
        return [], np.empty((0, 1), np.float16)
    (values,) = session.run(["feature"], {"image": np.stack(list(images.values()))})
    if not np.abs(values).max() <= np.finfo(np.float16).max:
        raise MrnnError(
            f"a feature of {paths[chunk[0]].name} or one of the {len(chunk) - 1} photos after it"
            " is not finite, or too large for float16",
            hint="scale the backbone's output, or check its weights",
        )
    return list(images), values.astype(np.float16)


def _refuse_broken(values: NDArray[np.float16], paths: Sequence[Path]) -> None:
    lost = [path for path, gone in zip(paths, broken(values), strict=True) if gone]
    refuse_many("photos that cannot be read", lost, len(paths))


def _graph(backbone: Backbone, path: Path) -> Path:
    """Return the backbone as an ONNX file, image uint8 [n, h, w, 3] -> feature float32 [n, d]."""
    if path.exists():
        return path
    import torch

    size = backbone.preprocess
    with _atomic(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own retirement
        torch.onnx.export(
            backbone.module,
            (torch.zeros(2, size.height, size.width, 3, dtype=torch.uint8),),
            str(temporary),
            input_names=["image"],
            output_names=["feature"],
            dynamic_axes={"image": {0: "n"}, "feature": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
    return path


def _identity(backbone: Backbone) -> str:
    """Return a digest of all that decides a backbone's feature: weights, layers, preprocess."""
    recipe = astuple(backbone.preprocess)
    if not backbone.preprocess.reduced:
        recipe = recipe[:-1]  # as before there was a choice: what is in the cache stays good
    return _digest(str(_VERSION), backbone.weights_id, str(recipe), repr(backbone.module))


def _stamp(path: Path) -> str:
    """Return what changes when the photo does, and not when its folder is moved."""
    try:
        facts = path.stat()
    except OSError:
        return f"{path.name}/missing"
    return f"{path.name}/{facts.st_size}/{facts.st_mtime_ns}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@contextmanager
def _atomic(target: Path) -> Iterator[Path]:
    """Give a name to write to; the file gets its own name when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
