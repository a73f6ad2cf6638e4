"""The input of a run, cut into parts: so many photos, a tar, or a row group of a Parquet file.

A part is what a worker does in one go, and becomes one file. The name of that file follows from
what the part holds, so a part that is done twice is there once.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import posixpath
import re
import tarfile
import zlib
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from mrnn_ray import photos
from mrnn_runtime import ImageError, UsageError
from mrnn_runtime.build import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mrnn_runtime import ImageSource

_TARS = frozenset({".tar", ".tgz"})
_TABLES = frozenset({".parquet", ".pq"})
_AHEAD = 2**22  # bytes of a tar that are asked for at a time: of a bucket, by one request
_TOGETHER = 64  # photos of a tar or a table that are in memory at a time, and as many read ahead


@dataclass(frozen=True, slots=True)
class File:
    """A file of the input.

    Attributes:
        name: what records say.
        path: where it is, as its file system says.
        stamp: what changes when it does.
    """

    name: str
    path: str
    stamp: str


@dataclass(frozen=True, slots=True)
class Part:
    """What a worker does in one go.

    Attributes:
        files: photos, or the one file that holds them.
        group: which row group of a Parquet file, or None.
    """

    files: tuple[File, ...]
    group: int | None = None

    @property
    def key(self) -> str:
        """What its file is called: by the names of what it holds, and by its stamps."""
        names = _digest(str(self.group), *(file.name for file in self.files))
        return f"{names}-{_digest(*(file.stamp for file in self.files))}"

    @property
    def is_container(self) -> bool:
        """Whether the photos are inside of its file."""
        return _suffix(self.files[0].path) in _TARS | _TABLES

    def to_json(self) -> str:
        """Return it as text, since Arrow has no columns of objects."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Part:
        """Return what ``to_json`` was called on."""
        fields = json.loads(text)
        return cls(tuple(File(**file) for file in fields["files"]), fields["group"])

    def without(self, names: set[str]) -> Part:
        """Return it without the photos that are done; a container is done or not as a whole."""
        if self.is_container:
            return self
        return replace(self, files=tuple(file for file in self.files if file.name not in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the photos are.

    Attributes:
        filesystem: of all of them.
        is_local: whether paths are those of this machine.
        column: of a Parquet file: bytes of photos, or their paths.
        name: of a Parquet file: the column with what records say.
    """

    filesystem: FileSystem = field(default_factory=LocalFileSystem)
    is_local: bool = True
    column: str = "bytes"
    name: str = "path"

    def photos(self, part: Part) -> Iterator[list[ImageSource]]:
        """Yield the photos of a part, so many at a time.

        Raises:
            ImageError: a tar or a table cannot be read; what it held before that has been yielded.
        """
        if not part.is_container:
            yield [self._one(file) for file in part.files]
            return
        (file,) = part.files
        inside = self._tar if _suffix(file.path) in _TARS else self._table
        several: list[ImageSource] = []
        try:
            for photo in inside(file, part.group):
                several.append(photo)
                if len(several) == _TOGETHER:
                    yield several
                    several = []
        except (OSError, tarfile.TarError, ValueError, KeyError, EOFError, zlib.error) as error:
            if several:
                yield several
            raise ImageError(
                f"{file.name} cannot be read: {type(error).__name__}: {error}",
                hint="its photos up to there have captions; copy it again",
            ) from error
        if several:
            yield several

    def _one(self, file: File) -> ImageSource:
        if self.is_local:
            return photos.local(file.name, file.path)
        return photos.remote(file.name, self.filesystem, file.path)

    def _tar(self, file: File, _: int | None) -> Iterator[ImageSource]:
        with (
            self.filesystem.open_input_stream(
                file.path, compression=None, buffer_size=_AHEAD
            ) as stream,
            tarfile.open(fileobj=stream, mode="r|*") as tar,
        ):
            for one in tar:
                if one.isfile() and _suffix(one.name) in IMAGE_SUFFIXES:
                    opened = tar.extractfile(one)
                    assert opened is not None
                    yield photos.in_memory(f"{file.name}/{one.name}", opened.read())

    def _table(self, file: File, group: int | None) -> Iterator[ImageSource]:
        assert group is not None
        with pq.ParquetFile(file.path, filesystem=self.filesystem) as table:
            columns = [one for one in (self.column, self.name) if one in table.schema_arrow.names]
            row = sum(table.metadata.row_group(i).num_rows for i in range(group))
            for batch in table.iter_batches(_TOGETHER, row_groups=[group], columns=columns):
                for one in batch.to_pylist():
                    value = one[self.column]
                    called = one.get(self.name) if self.name != self.column else None
                    name = "" if called is None else str(called)  # numbers are names, too
                    if isinstance(value, str):
                        yield photos.at(name or value, value)
                    else:
                        yield photos.in_memory(name or f"{file.name}#{row}", value)
                    row += 1


def open_source(inputs: Sequence[str], *, column: str, name: str) -> tuple[Source, list[File]]:
    """Find the files that the inputs stand for.

    Args:
        inputs: folders, files, globs, lists of such (.txt), or URIs of one file system.
        column: of Parquet files: that of the photos.
        name: of Parquet files: that of their names.

    Raises:
        UsageError: an input does not exist or holds nothing, or they are on several file systems.
    """
    wanted = [place for one in inputs for place in _listed(one)]
    schemes = {place.partition("://")[0] if "://" in place else "" for place in wanted}
    if len(schemes) != 1:
        raise UsageError("photos of several file systems", hint="one run for each")
    is_local = schemes == {""}
    filesystem = LocalFileSystem() if is_local else open_place(wanted[0])[0]
    files: list[File] = []
    for place in wanted:
        # As the user wrote it, and as `mrnn caption` does; a URI may hold a password.
        given = place.rstrip("/") or place if is_local else open_place(place)[1]
        start, pattern = _split(filesystem, given, is_local=is_local)
        path = os.path.abspath(start) if is_local else start
        listed = sorted(_find(filesystem, path, pattern))
        if not listed:
            raise UsageError(
                f"{_shown(place)} holds no photos",
                hint="photos, tars and Parquet files are looked for",
            )
        scheme = "" if is_local else f"{place.partition('://')[0]}://"
        files += [
            File(
                scheme + (posixpath.join(start, inside) if inside else start),
                info.path,
                f"{info.size}/{info.mtime_ns}",
            )
            for inside, info in listed
        ]
    return Source(filesystem=filesystem, is_local=is_local, column=column, name=name), files


def open_place(place: str) -> tuple[FileSystem, str]:
    """Return the file system and the path of a URI, or of a path of this machine.

    Raises:
        UsageError: there is no such file system.
    """
    if "://" not in place:
        return LocalFileSystem(), os.path.abspath(place)
    try:
        filesystem, path = FileSystem.from_uri(place)
    except (OSError, ValueError) as error:
        why = str(error).replace(place, _shown(place))
        raise UsageError(f"{_shown(place)} cannot be opened: {why}") from None
    return filesystem, path


def cut(files: Iterable[File], source: Source, size: int) -> Iterator[Part]:
    """Cut files into parts.

    Where photos end a part depends on their names, so that a photo more changes one part only.

    Args:
        files: of the input, in order.
        source: where they are.
        size: photos of a part, about.
    """
    for kind, some in groupby(files, key=lambda file: _kind(file.path)):
        if kind == "image":
            yield from _cut_images(some, size)
        elif kind == "tar":
            yield from (Part((file,)) for file in some)
        else:
            for file in some:
                yield from (Part((file,), i) for i in range(_row_groups(file, source)))


def _cut_images(files: Iterable[File], size: int) -> Iterator[Part]:
    least, spread = max(1, size // 2), max(1, size // 2)
    part: list[File] = []
    for file in files:
        part.append(file)
        ends = zlib.crc32(file.name.encode("utf-8", "surrogateescape")) % spread == 0
        if (len(part) >= least and ends) or len(part) >= 2 * size:
            yield Part(tuple(part))
            part = []
    if part:
        yield Part(tuple(part))


def _row_groups(file: File, source: Source) -> int:
    try:
        with pq.ParquetFile(file.path, filesystem=source.filesystem) as table:
            if source.column not in table.schema_arrow.names:
                raise UsageError(
                    f"{file.name} has no column {source.column!r}",
                    hint=f"--column with one of {', '.join(table.schema_arrow.names)}",
                )
            return int(table.metadata.num_row_groups)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file.name} is no Parquet file that can be read: {error}") from error


def _listed(place: str) -> list[str]:
    if not place.endswith(".txt"):
        return [place]
    filesystem, path = open_place(place)
    try:
        with filesystem.open_input_stream(path) as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{_shown(place)} cannot be read: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _shown(place: str) -> str:
    """Return a place as errors may show it: a URI without user, password and options."""
    if "://" not in place:
        return place
    return re.sub("(?<=://)[^/@]*@", "", place.partition("?")[0])


def _split(filesystem: FileSystem, place: str, *, is_local: bool) -> tuple[str, str]:
    """Return the folder and the pattern of a glob, or a path that exists and nothing."""
    path = os.path.abspath(place) if is_local else place
    signs = [place.index(sign) for sign in "*?[" if sign in place]
    if not signs or filesystem.get_file_info(path).type != FileType.NotFound:
        return place, ""
    folder = posixpath.dirname(place[: min(signs)])
    return folder, place[len(folder) :].lstrip("/")


def _find(filesystem: FileSystem, path: str, pattern: str) -> Iterator[tuple[str, FileInfo]]:
    """Yield files, and where below a folder they are; of a path that is a file "" and that."""
    info = filesystem.get_file_info(path)
    if info.type == FileType.File and not pattern:
        yield "", info
        return
    if info.type == FileType.NotFound and not pattern:
        raise UsageError(f"{path} does not exist", hint="a folder, a file, a glob or a URI")
    below = FileSelector(path, recursive=True, allow_not_found=bool(pattern))
    for info in filesystem.get_file_info(below):
        inside = info.path[len(path) :].lstrip("/")
        matches = fnmatch.fnmatchcase(inside, pattern) if pattern else "/." not in f"/{inside}"
        if matches and info.type == FileType.File and _kind(info.path):
            yield inside, info


def _kind(path: str) -> str:
    suffix = _suffix(path)
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "tar" if suffix in _TARS else "table" if suffix in _TABLES else ""


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
