"""Captions for a Ray Dataset: the user's Dataset in, a Dataset out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa
from ray.data import ActorPoolStrategy

from mrnn_ray import photos
from mrnn_ray.recipe import Recipe
from mrnn_runtime import DecodeChanges, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.data import Dataset

    from mrnn_runtime import ImageSource


def caption_dataset(
    dataset: Dataset,
    *,
    model: str | None = None,
    column: str = "bytes",
    name: str = "path",
    provider: str | None = None,
    decoder: str | None = None,
    reranker: str | None = None,
    embeddings: bool = False,
    batch_size: int = 64,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
    ray_remote_args: dict[str, Any] | None = None,
    **changes: Unpack[DecodeChanges],
) -> Dataset:
    """Caption the photos of a Dataset; each worker of an actor pool holds one captioner.

    The rows keep their columns, without the one that holds bytes, and get those of
    ``Caption.record()`` and ``error``: a photo that cannot be read is a row as well. Nothing runs
    before the Dataset is consumed. One without ``column``, or with a column that would be replaced,
    such as ``caption``, is refused then: a UsageError inside of Ray's own error.

    Args:
        dataset: the photos.
        model: a model that is installed on every node, or a folder that every node sees.
        column: that of the photos: bytes of files, or paths and URIs of pyarrow's file systems.
        name: the column with what ``path`` shall say, where there is one.
        provider: where to run; by default ``cuda`` with ``num_gpus``, else ``cpu``. Never falls
            back.
        decoder: the name of a decoder.
        reranker: the name of a reranker, or ``none``.
        embeddings: whether to add what the encoder makes of a photo, as float16: the inputs of the
            cell, which ``mrnn search --gallery`` takes, and ``reference_feature``.
        batch_size: rows that an actor gets at a time; no caption depends on it.
        concurrency: actors, or the bounds between which Ray chooses; by default as many as the
            cluster has room for.
        num_cpus: cores of an actor.
        num_gpus: share of a GPU of an actor.
        ray_remote_args: more for Ray, such as ``max_restarts``.
        changes: decoding options by name, words as text.
    """
    recipe = Recipe(
        model=model,
        provider=provider or ("cuda" if num_gpus else "cpu"),
        cpus=num_cpus,
        decoder=decoder,
        reranker=reranker,
        changes=changes,
        vectors=embeddings,
    )
    return dataset.map_batches(
        CaptionRows,
        fn_constructor_kwargs={"recipe": recipe, "column": column, "name": name},
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool(concurrency),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        **(ray_remote_args or {}),
    )


def pool(concurrency: int | tuple[int, int] | None) -> ActorPoolStrategy:
    """Return a pool of so many actors, of between so many, or of as many as there is room for."""
    if isinstance(concurrency, int):
        return ActorPoolStrategy(size=concurrency)
    least, most = concurrency or (1, None)
    return ActorPoolStrategy(min_size=least, max_size=most)


class CaptionRows:
    """The work of an actor of ``caption_dataset``: a batch of rows in, the same rows out."""

    def __init__(self, *, recipe: Recipe, column: str, name: str) -> None:
        """Load the model."""
        self._captions = recipe.open()
        self._column, self._name = column, name
        self._own = {*self._captions(()).column_names} - {column, name}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Caption a batch."""
        if self._column not in batch.column_names:
            raise UsageError(
                f"the dataset has no column {self._column!r}",
                hint=f"name one of {', '.join(batch.column_names)}",
            )
        if taken := [one for one in batch.column_names if one in self._own]:
            raise UsageError(
                f"the dataset has a column {taken[0]!r} already, which captioning would replace",
                hint="rename_columns() of the dataset gives it another name",
            )
        captions = self._captions(list(self._photos(batch)))
        if not _is_text(batch.schema.field(self._column).type):
            batch = batch.drop_columns([self._column])
        kept = [one for one in batch.column_names if one not in captions.column_names]
        for one in reversed(kept):
            captions = captions.add_column(0, batch.schema.field(one), batch.column(one))
        return captions

    def _photos(self, batch: pa.Table) -> Iterator[ImageSource]:
        values = batch.column(self._column)
        names = batch.column(self._name) if self._name in batch.column_names else values
        for value, name in zip(values, names, strict=True):
            if _is_text(values.type):
                yield photos.at(str(name.as_py()), value.as_py() or "")
            else:
                yield photos.in_memory("" if names is values else str(name.as_py()), value.as_py())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
