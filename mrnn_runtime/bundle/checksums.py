"""Folders under a manifest with checksums, so that one changed byte in any file is noticed.

The manifest is a JSON object that lists every other file of the folder with size and sha256, and
carries a checksum of itself. Bundles and references are such folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.atomic import replace_file
from mrnn_runtime.bundle.fields import Fields, read_json
from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

MOST_BYTES = 2**22  # of a manifest
_OWN = "manifest_sha256"
# An allow-list: what it matches is a relative path without "..", hidden parts, drives, backslashes.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileFact:
    """What a file of the folder must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class CheckedFolder:
    """A folder under a manifest.

    Attributes:
        root: the folder, with links resolved.
        manifest: the name of its manifest.
        version: the newest format that is read, and the one that is written.
        hint: what to do where it is damaged.
    """

    root: Path
    manifest: str
    version: int
    hint: str

    def read(self) -> Fields:
        """Read the manifest and check its own checksum.

        Raises:
            BundleError: it is damaged, lies outside the folder, or is of a newer format.
        """
        path = self._place(self.manifest)
        try:
            top = Fields(read_json(path, MOST_BYTES), path, hint=self.hint)
            own = _own_sha256(top.values)
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path} cannot be read as JSON: {error}", hint=self.hint) from error
        version = top.integer("format", 1)
        if version > self.version:
            raise BundleError(
                f"{path} has format {version}; this mrnn-runtime reads formats up to"
                f" {self.version}",
                hint="pip install --upgrade mrnn-runtime",
            )
        if top.text(_OWN) != own:
            raise BundleError(f"{path} was changed: {_OWN} does not fit the rest", hint=self.hint)
        return top

    def write(
        self,
        values: Mapping[str, Any],
        check: Callable[[Fields], object],
        *,
        spare: Collection[str] = (),
    ) -> None:
        """Write the manifest, with format, files and checksums filled in, over an older one.

        Args:
            values: its other fields; the folder's files lie there already.
            check: called with what loading will see, before an older manifest is replaced.
            spare: folders in it that are left out.

        Raises:
            BundleError: a file has a name or place that is not allowed, or the values are no JSON.
        """
        facts = {}
        for file in sorted(self._files(spare)):
            path = self._place(file)
            facts[file] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
        filled = {**values, "format": self.version, "files": facts}
        target = self.root / self.manifest
        try:
            filled[_OWN] = _own_sha256(filled)
            text = json.dumps(filled, indent=1, allow_nan=False) + "\n"
            # Tuples and other look-alikes turn into what loading will see.
            check(Fields(json.loads(text), target, hint=self.hint))
        except (TypeError, ValueError, RecursionError) as error:
            raise BundleError(f"the manifest of {self.root} is no JSON: {error}") from error
        replace_file(target, text.encode())

    def check(self, facts: Mapping[str, FileFact], *, spare: Collection[str] = ()) -> None:
        """Check that the folder holds the files of its manifest, and nothing else.

        Args:
            facts: the files that the manifest lists.
            spare: folders in it that may hold anything, and are not looked at.

        Raises:
            BundleError: it does not.
        """
        surplus = sorted(set(self._files(spare)) - set(facts))
        if surplus:
            raise BundleError(
                f"{self.root} holds files that {self.manifest} does not list:"
                f" {', '.join(map(repr, surplus))}",
                hint=f"move them elsewhere, or: {self.hint}",
            )
        # Hashing releases the GIL, so two threads halve its time where there are two cores.
        with ThreadPoolExecutor(2) as pool:
            # A list, so that what fails is raised.
            list(pool.map(self._check_file, facts, facts.values()))

    def _check_file(self, file: str, fact: FileFact) -> None:
        path = self.root / file
        try:
            self._place(file)
            size = path.stat().st_size
            if size != fact.bytes:
                raise BundleError(f"{path} has {size} bytes, not {fact.bytes}", hint=self.hint)
            if _sha256(path) != fact.sha256:
                complaint = f"{path} was changed: its sha256 is not the one in {self.manifest}"
                raise BundleError(complaint, hint=self.hint)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error}", hint=self.hint) from error

    def _files(self, spare: Collection[str]) -> Iterator[str]:
        """Yield what is visible in it but the manifest: the files, and links to folders."""
        for folder, folders, files in os.walk(self.root):
            ignored = spare if Path(folder) == self.root else ()
            folders[:] = [one for one in folders if not one.startswith(".") and one not in ignored]
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for file in (*files, *links):
                path = Path(folder, file).relative_to(self.root).as_posix()
                if not file.startswith(".") and path != self.manifest:
                    yield path

    def _place(self, name: str) -> Path:
        """Refuse what lies outside the folder, and what is no ordinary file: a pipe would hang."""
        path = self.root / name
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(self.root):
            raise BundleError(
                f"{path} is a link to {target}, outside the folder",
                hint="copy the folder with links followed: cp -rL",
            )
        if not path.is_file():
            raise BundleError(f"{path} is missing, or is no ordinary file", hint=self.hint)
        return path


def unfilled(top: Fields) -> dict[str, Any]:
    """Return a manifest's values without those that ``CheckedFolder.write`` fills in."""
    return {k: v for k, v in top.values.items() if k not in ("format", "files", _OWN)}


def file_facts(top: Fields, name: str) -> dict[str, FileFact]:
    """Return the files that a manifest lists; ``name`` is its own.

    Raises:
        BundleError: a name is no plain path inside the folder, or a fact is malformed.
    """
    files = top.fields("files")
    facts = {}
    for file in files.values:
        if not _FILE_NAME.fullmatch(file) or file == name:
            raise files.wrong("", f"names {file!r}, which is no plain path inside the folder")
        fact = files.fields(file)
        digest = fact.text("sha256")
        if not _SHA256.fullmatch(digest):
            raise fact.wrong("sha256", "must be 64 hexadecimal digits")
        facts[file] = FileFact(digest, fact.integer("bytes"))
    return facts


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of all fields but this one, whatever their order and layout."""
    rest = {key: value for key, value in manifest.items() if key != _OWN}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
