"""A gallery for ``mrnn search --gallery``, of the embeddings that ``mrnn ray caption`` wrote."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mrnn_ray.outputs import SETTINGS
from mrnn_ray.parts import open_place
from mrnn_runtime import UsageError, load

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from mrnn_runtime import Bundle


def write_gallery(captions: str, output: str, *, model: str | None = None) -> int:
    """Write the folder that ``mrnn search --gallery`` reads; return how many photos are in it.

    Batches pass through, so memory does not grow with the number of photos. ``gallery.json`` comes
    last: without it, the folder is none.

    Args:
        captions: a folder or a URI of Parquet files.
        output: the new folder.
        model: what wrote them.

    Raises:
        UsageError: there is nothing to read, no vectors or another model's, or the folder holds
            something.
    """
    folder = Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{output} is not empty", hint="choose another --output")
    captioner = load(model, provider="cpu", threads=1)
    bundle = captioner.bundle
    shapes = {name: array.shape[1:] for name, array in captioner.encode([]).inputs.items()}
    filesystem, path = open_place(captions)
    try:
        rows = pads.dataset(path, filesystem=filesystem, format="parquet")
    except (OSError, ValueError) as error:
        raise UsageError(f"{captions} cannot be read: {error}") from error
    if missing := sorted(set(shapes) - set(rows.schema.names)):
        raise UsageError(
            f"{captions} has no column {missing[0]!r}",
            hint="mrnn ray caption --embeddings writes it",
        )
    _check_model(captions, rows, bundle)
    good = pc.field("error").is_null()
    count = rows.count_rows(filter=good)
    folder.mkdir(parents=True, exist_ok=True)
    offsets = np.lib.format.open_memmap(folder / "offsets.npy", "w+", np.int64, (count + 1,))
    with ExitStack() as stack:
        paths = stack.enter_context((folder / "paths.txt").open("wb"))
        files = {
            name: np.lib.format.open_memmap(
                folder / f"{name}.npy", "w+", np.float16, (count, *shape)
            )
            for name, shape in shapes.items()
        }
        row = 0
        for batch in rows.to_batches(columns=["path", *shapes], filter=good):
            for name, file in files.items():
                file[row : row + len(batch)] = _matrix(batch.column(name)).reshape(
                    len(batch), *shapes[name]
                )
            for place in batch.column("path").to_pylist():
                row += 1
                offsets[row] = offsets[row - 1] + paths.write((json.dumps(place) + "\n").encode())
        for array in (*files.values(), offsets):
            array.flush()
    facts = {
        "model": f"{bundle.name} {bundle.version}",
        "encoder": bundle.files[bundle.encoder.file].sha256,
        "photos": count,
    }
    temporary = folder / ".gallery.json"
    temporary.write_text(json.dumps(facts, indent=1))
    os.replace(temporary, folder / "gallery.json")
    return int(count)


def _check_model(captions: str, rows: pads.Dataset, bundle: Bundle) -> None:
    """Refuse what another encoder wrote, or what another model did where a run does not say.

    Raises:
        UsageError: it is another's.
    """
    filesystem, path = open_place(captions)
    try:
        with filesystem.open_input_file(f"{path}/{SETTINGS}") as file:
            run = json.loads(file.read())
        is_ours = run.get("encoder") == bundle.files[bundle.encoder.file].sha256
        others = set() if is_ours else {str(run.get("model"))}
    except OSError:  # written by a pipeline of Ray Data
        batches = rows.to_batches(columns=["model"])
        names = {name for batch in batches for name in batch.column("model").unique().to_pylist()}
        others = names - {None, bundle.name}
    if others:
        raise UsageError(
            f"{captions} was written by {', '.join(sorted(others))}, "
            f"and not by this {bundle.name} {bundle.version}",
            hint="name the model that wrote it with --model",
        )


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float16]:
    values: NDArray[np.float16] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), column.type.list_size)
