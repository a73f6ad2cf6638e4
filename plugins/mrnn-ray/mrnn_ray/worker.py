"""What a worker does: parts in, a file a part out. Knows nothing of Ray.

A worker that does a part again, because another was lost, finds its file or replaces it by the same
one; so nothing is there twice, whatever was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mrnn_ray.parts import Part
from mrnn_ray.records import SCHEMA
from mrnn_runtime import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_ray.outputs import Output
    from mrnn_ray.parts import Source
    from mrnn_ray.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is done: how many rows its file has, and how many of them are errors."""

    photos: int
    failed: int


class Worker:
    """The work of an actor: parts in, their files written, what was done out."""

    def __init__(self, *, recipe: Recipe, source: Source, output: Output) -> None:
        """Load the model."""
        self._captions = recipe.open()
        self._source, self._output = source, output

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Do the parts of a batch."""
        done = [self._do(Part.from_json(part)) for part in batch["part"]]
        return {
            "photos": [one.photos for one in done],
            "failed": [one.failed for one in done],
        }

    def _do(self, part: Part) -> Done:
        if not self._output.holds(part.key):  # else a worker did it and was lost afterwards
            self._output.write(part.key, self._rows(part))
        errors = self._output.read(part.key, "error")
        return Done(len(errors), sum(error is not None for error in errors))

    def _rows(self, part: Part) -> pa.Table:
        rows = []
        try:
            for photos in self._source.photos(part):
                rows.append(self._captions(photos))  # noqa: PERF401 - what it raises comes last
        except ImageError as error:
            lost = {"path": part.files[0].name, "error": str(error)}
            rows.append(pa.Table.from_pylist([lost], SCHEMA))
        return pa.concat_tables(rows or [SCHEMA.empty_table()], promote_options="default")


def remaining(parts: Sequence[Part], output: Output, present: set[str]) -> list[Part]:
    """Return and note what is not done; remove the results of files that have changed since.

    Args:
        parts: of the input.
        output: the results.
        present: the keys of the parts that it holds.
    """
    stamps = {file.name: file.stamp for part in parts for file in part.files}
    others = present - {part.key for part in parts}
    notes = output.noted() if others else {}
    names: set[str] = set()  # of photos that are done in a part that was cut otherwise
    for key in others:
        files = notes.get(key, {})
        if any(stamps.get(name, stamp) != stamp for name, stamp in files.items()):
            output.remove(key)
        else:
            names.update(files)
    left = [part for part in parts if part.key not in present]
    left = [rest for part in left if (rest := part.without(names)).files]
    left = [part for part in left if part.key not in present]
    if left:
        output.note(left)
    return left
