"""What a run has written: one file a part, which is there as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from mrnn_ray.parts import Part

# Readers of Parquet folders leave out what begins so.
SETTINGS = "_mrnn.json"
_NOTE = "_parts-"


class Format(StrEnum):
    """How captions are written."""

    PARQUET = "parquet"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Output:
    """A folder of results.

    Attributes:
        filesystem: where it is.
        folder: its path there.
        form: of its files.
    """

    filesystem: FileSystem
    folder: str
    form: Format

    def begin(self, settings: dict[str, object], *, resume: bool) -> set[str]:
        """Take the folder for a run; return the keys of the parts that are there.

        Raises:
            UsageError: it holds something and the run does not resume, or it holds another run.
        """
        present = self._names()
        if not present:
            if isinstance(self.filesystem, LocalFileSystem):
                self.filesystem.create_dir(self.folder, recursive=True)
            self._write(SETTINGS, json.dumps(settings, indent=1, sort_keys=True).encode())
            return set()
        if not resume:
            raise UsageError(
                f"{self.folder} is not empty", hint="choose another --output, or --resume it"
            )
        if SETTINGS not in present:
            raise UsageError(f"{self.folder} holds no run", hint="choose another --output")
        with self.filesystem.open_input_file(f"{self.folder}/{SETTINGS}") as file:
            before = json.loads(file.read())
        if before != json.loads(json.dumps(settings)):
            changed = [key for key in settings if before.get(key) != settings[key]]
            raise UsageError(
                f"{self.folder} was begun with another {', '.join(changed) or 'choice of options'}",
                hint=f"use what its {SETTINGS} says, or another --output",
            )
        end = f".{self.form}"
        return {name.removesuffix(end) for name in present if name.endswith(end)}

    def note(self, parts: Sequence[Part]) -> None:
        """Write down what parts are made of, before they are done."""
        facts = {part.key: {file.name: file.stamp for file in part.files} for part in parts}
        content = json.dumps(facts).encode()
        self._write(f"{_NOTE}{hashlib.sha256(content).hexdigest()[:16]}.json", content)

    def noted(self) -> dict[str, dict[str, str]]:
        """Return what was noted: the stamps of files by their names, of each part by its key."""
        notes: dict[str, dict[str, str]] = {}
        for name in self._names():
            if name.startswith(_NOTE):
                with self.filesystem.open_input_file(f"{self.folder}/{name}") as file:
                    notes |= json.loads(file.read())
        return notes

    def read(self, key: str, column: str) -> list[str | None]:
        """Return one column of the file of a part."""
        with self.filesystem.open_input_file(self._path(key)) as file:
            if self.form is Format.PARQUET:
                values: list[str | None] = pq.read_table(file, columns=[column])[column].to_pylist()
                return values
            return [json.loads(line).get(column) for line in file.read().splitlines()]

    def holds(self, key: str) -> bool:
        """Say whether the file of a part is there."""
        return bool(self.filesystem.get_file_info(self._path(key)).type == FileType.File)

    def write(self, key: str, rows: pa.Table) -> None:
        """Write the file of a part, over the same one of another try if that is there."""
        stream = BytesIO()
        if self.form is Format.PARQUET:
            pq.write_table(rows, stream)
        else:
            for row in rows.to_pylist():
                stream.write((json.dumps(_record(row)) + "\n").encode())
        self._write(f"{key}.{self.form}", stream.getvalue())

    def remove(self, key: str) -> None:
        """Remove the file of a part."""
        self.filesystem.delete_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.folder}/{key}.{self.form}"

    def _names(self) -> set[str]:
        below = FileSelector(self.folder, allow_not_found=True)
        names = (info.base_name or "" for info in self.filesystem.get_file_info(below))
        return {name for name in names if not name.startswith(".")}

    def _write(self, name: str, content: bytes) -> None:
        """Write a file at once: a bucket shows it when all is there, a disk gives it its name."""
        path = f"{self.folder}/{name}"
        is_local = isinstance(self.filesystem, LocalFileSystem)
        place = f"{self.folder}/.{name}.{os.getpid()}.part" if is_local else path
        with self.filesystem.open_output_stream(place) as file:
            file.write(content)
        if is_local:
            os.replace(place, path)


def _record(row: dict[str, object]) -> dict[str, object]:
    """Return a row as ``Caption.record`` has it."""
    if row["error"] is not None:
        return {"path": row["path"], "error": row["error"]}
    optional = {"error", *(["neighbours"] if row["neighbours"] is None else [])}
    record = {name: value for name, value in row.items() if name not in optional}
    candidates = row["candidates"]
    assert isinstance(candidates, list)
    record["candidates"] = [
        {name: value for name, value in one.items() if value is not None} for one in candidates
    ]
    return record
