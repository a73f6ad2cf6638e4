"""What a frozen CNN makes of photos, computed once by ONNX Runtime and kept on disk.

Photos go through the runtime's own reader, so training sees the pixels that captioning will see. A
view is a way to look at a photo: ``plain``, ``mirror``, or ``crop1``, ``crop2``, ...: a window of
.75 to .95 of each side, every other one mirrored, always the same one for the same view of a photo.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mrnn_exporters.datasets import Member, as_image, file_of, refuse_many
from mrnn_exporters.progress import on_all_cores
from mrnn_exporters.shards import Store
from mrnn_runtime import ImageError, MrnnError, UsageError, read_image
from mrnn_runtime.build import blaming, make_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mrnn_exporters.shards import Rows
    from mrnn_runtime import Backbone, Preprocess
    from mrnn_runtime.build import Session

# Part of every key: change it when the code below comes to compute something else.
_VERSION = 1
_BATCH = 4
_PIECE = 4096  # bytes of a photo that its key looks at, in three places
_SMALLEST, _LARGEST = 0.75, 0.95
_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def features(
    backbone: Backbone,
    paths: Sequence[Path | Member],
    view: str,
    cache: Path,
    *,
    name: str = "unnamed",
) -> Rows:
    """Return a backbone's features of photos, computed at the first call and read later.

    Args:
        backbone: the CNN.
        paths: the photos.
        view: ``plain``, ``mirror``, or ``crop`` and a number.
        cache: the folder that holds the files of all backbones and photos.
        name: what users call the backbone, for errors.

    Returns:
        float16 [d] a photo, mapped from files: memory does not grow with n. Those of photos that
        cannot be read are missing.

    Raises:
        UsageError: an unknown view, or more than 1 % of the photos cannot be read.
        MrnnError: a feature does not fit float16, or the cache cannot be written.
        PluginError: the backbone cannot be exported to ONNX.
    """
    check_view(view)
    with blaming(f"backbone {name!r}"):
        net = _identity(backbone)
    keys = [_stamp(path) for path in paths]
    store = Store(cache / "features" / f"{net}-{view}", backbone.feature_size)
    rows = store.read(keys)
    if rows.missing.any():
        with store.locked():
            left = np.flatnonzero(store.read(keys).missing).tolist()
            if left:
                with blaming(f"backbone {name!r}"):
                    graph = _graph(backbone, cache / "backbones" / f"{net}.onnx")
                session = make_session(graph, "cpu", 1)
                chunks = [left[i : i + _BATCH] for i in range(0, len(left), _BATCH)]
                job = partial(_chunk, session, backbone.preprocess, view, paths)
                for readable, values in on_all_cores(job, chunks, f"features, {view}"):
                    store.add([keys[row] for row in readable], values)
        rows = store.read(keys)
    lost = [path for path, gone in zip(paths, rows.missing, strict=True) if gone]
    refuse_many("photos that cannot be read", lost, len(paths))
    return rows


def check_view(view: str) -> None:
    """Refuse what is no name of a view.

    Raises:
        UsageError: that.
    """
    if not re.fullmatch(r"plain|mirror|crop\d+", view):
        raise UsageError(f"unknown view {view!r}", hint="use plain, mirror, crop1, crop2, ...")


def read_view(path: Path | Member, preprocess: Preprocess, view: str) -> NDArray[np.uint8]:
    """Read one view of a photo, uint8 [h, w, 3].

    Raises:
        ImageError: the photo cannot be read.
    """
    image = as_image(path)
    if view == "plain":
        return read_image(image, preprocess)
    if view == "mirror":
        return read_image(image, preprocess)[:, ::-1]
    # Read so large that even the smallest window is not enlarged again.
    size = (preprocess.height, preprocess.width)
    height, width = (round(side / _SMALLEST) for side in size)
    pixels = read_image(image, replace(preprocess, height=height, width=width))
    rng = np.random.default_rng(list(hashlib.sha256(f"{view}/{path.name}".encode()).digest()))
    rows = round(height * rng.uniform(_SMALLEST, _LARGEST))
    columns = round(width * rng.uniform(_SMALLEST, _LARGEST))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    window = Image.fromarray(pixels[top : top + rows, left : left + columns])
    resized = window.resize(size[::-1], _INTERPOLATIONS[preprocess.interpolation])
    return np.asarray(resized)[:, :: rng.choice((-1, 1))]


def _chunk(
    session: Session,
    preprocess: Preprocess,
    view: str,
    paths: Sequence[Path | Member],
    chunk: Sequence[int],
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


def _stamp(path: Path | Member) -> str:
    """Return what changes when the photo does, and not when its folder is moved.

    A checksum of three pieces tells photos of one name, size and time apart.
    """
    try:
        with file_of(path).open("rb") as file:
            facts = os.stat(file.fileno())
            start, size = 0, facts.st_size
            place = path.name
            if isinstance(path, Member):  # other tars may hold the same names, and this one too
                start, size = path.offset, path.size
                place = f"{path.archive.name}/{start}/{path.name}"
            checksum = 0
            for piece in (0, size // 2, max(0, size - _PIECE)):
                file.seek(start + piece)
                checksum = zlib.crc32(file.read(min(_PIECE, size - piece)), checksum)
    except OSError:
        return f"{path.name}/missing"
    return f"{place}/{size}/{facts.st_mtime_ns}/{checksum}"


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
