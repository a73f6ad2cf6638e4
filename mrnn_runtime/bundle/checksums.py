"""Folders under a sealed manifest, so that one changed byte in any file is noticed.

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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.atomic import replace_file
from mrnn_runtime.bundle.fields import Fields, read_json
from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

MOST_BYTES = 2**22  # of a manifest
_SEAL = "manifest_sha256"
# An allow-list: what it matches is a relative path without "..", hidden parts, drives, backslashes.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileFact:
    """What a file of the folder must be."""

    sha256: str
    bytes: int


def read_manifest(root: Path, name: str, newest: int, hint: str) -> Fields:
    """Read a manifest and check its seal.

    Args:
        root: the folder, with links resolved.
        name: of the manifest in it.
        newest: the newest format that the caller reads.
        hint: what to do about a damaged folder.

    Raises:
        BundleError: it is damaged, lies outside the folder, or is of a newer format.
    """
    path = root / name
    _check_place(root, name, hint)
    try:
        top = Fields(read_json(path, MOST_BYTES), path, hint=hint)
        seal = _seal(top.values)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}", hint=hint) from error
    version = top.integer("format", 1)
    if version > newest:
        raise BundleError(
            f"{path} has format {version}; this mrnn-runtime reads formats up to {newest}",
            hint="pip install --upgrade mrnn-runtime",
        )
    if top.text(_SEAL) != seal:
        raise BundleError(f"{path} was changed: {_SEAL} does not fit the rest", hint=hint)
    return top


def write_manifest(
    root: Path,
    name: str,
    values: Mapping[str, Any],
    version: int,
    hint: str,
    check: Callable[[Fields], object],
    *,
    spare: Collection[str] = (),
) -> None:
    """Write a manifest, with format, files and seal filled in, in place of an older one.

    Args:
        root: the folder, with links resolved; its other files lie there already.
        name: of the manifest.
        values: its other fields.
        version: of the format.
        hint: what to do about a field that is wrong.
        check: called with what loading will see, before an older manifest is replaced.
        spare: folders in it that are left out.

    Raises:
        BundleError: a file has a name or place that is not allowed, or the values are no JSON.
    """
    facts = {}
    for file in sorted(_files_in(root, name, spare)):
        _check_place(root, file, hint)
        facts[file] = {"sha256": _sha256(root / file), "bytes": (root / file).stat().st_size}
    filled = {**values, "format": version, "files": facts}
    try:
        filled[_SEAL] = _seal(filled)
        text = json.dumps(filled, indent=1, allow_nan=False) + "\n"
        # Tuples and other look-alikes turn into what loading will see.
        check(Fields(json.loads(text), root / name, hint=hint))
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"the manifest of {root} is no JSON: {error}") from error
    replace_file(root / name, text.encode())


def unfilled(top: Fields) -> dict[str, Any]:
    """Return a manifest's values without those that ``write_manifest`` fills in."""
    return {k: v for k, v in top.values.items() if k not in ("format", "files", _SEAL)}


def file_facts(top: Fields, name: str) -> dict[str, FileFact]:
    """Return the files that a manifest lists; ``name`` is its own.

    Raises:
        BundleError: a name is no plain path inside the folder, or a fact is malformed.
    """
    files = top.fields("files")
    return {file: _file_fact(files, file, name) for file in files.values}


def check_files(
    root: Path,
    name: str,
    facts: Mapping[str, FileFact],
    hint: str,
    *,
    spare: Collection[str] = (),
) -> None:
    """Check that the folder of the manifest ``name`` holds what it lists, and nothing else.

    Args:
        root: the folder, with links resolved.
        name: of the manifest.
        facts: the files that it lists.
        hint: what to do about a damaged folder.
        spare: folders in it that may hold anything, and are not looked at.

    Raises:
        BundleError: it does not.
    """
    surplus = sorted(set(_files_in(root, name, spare)) - set(facts))
    if surplus:
        raise BundleError(
            f"{root} holds files that {name} does not list: {', '.join(map(repr, surplus))}",
            hint=f"move them elsewhere, or: {hint}",
        )
    # Hashing releases the GIL, so two threads halve its time where there are two cores.
    with ThreadPoolExecutor(2) as pool:
        check = partial(_check_file, root, name, hint)
        list(pool.map(check, facts, facts.values()))  # a list, so that what fails is raised


def _check_file(root: Path, name: str, hint: str, file: str, fact: FileFact) -> None:
    path = root / file
    try:
        _check_place(root, file, hint)
        size = path.stat().st_size
        if size != fact.bytes:
            raise BundleError(f"{path} has {size} bytes, not {fact.bytes}", hint=hint)
        if _sha256(path) != fact.sha256:
            raise BundleError(f"{path} was changed: its sha256 is not the one in {name}", hint=hint)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}", hint=hint) from error


def _file_fact(files: Fields, file: str, name: str) -> FileFact:
    if not _FILE_NAME.fullmatch(file) or file == name:
        raise files.wrong("", f"names {file!r}, which is no plain path inside the folder")
    fact = files.fields(file)
    digest = fact.text("sha256")
    if not _SHA256.fullmatch(digest):
        raise fact.wrong("sha256", "must be 64 hexadecimal digits")
    return FileFact(digest, fact.integer("bytes"))


def _seal(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of all fields but the seal itself, whatever their order and layout."""
    rest = {key: value for key, value in manifest.items() if key != _SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files_in(root: Path, name: str, spare: Collection[str]) -> Iterator[str]:
    """Yield what is visible below ``root`` but the manifest: the files, and links to folders."""
    for folder, folders, files in os.walk(root):
        ignored = spare if Path(folder) == root else ()
        folders[:] = [one for one in folders if not one.startswith(".") and one not in ignored]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for file in (*files, *links):
            path = Path(folder, file).relative_to(root).as_posix()
            if not file.startswith(".") and path != name:
                yield path


def _check_place(root: Path, name: str, hint: str) -> None:
    """Refuse what lies outside the folder, and what is no ordinary file: a pipe would hang."""
    path = root / name
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(root):
        raise BundleError(
            f"{path} is a link to {target}, outside the folder",
            hint="copy the folder with links followed: cp -rL",
        )
    if not path.is_file():
        raise BundleError(f"{path} is missing, or is no ordinary file", hint=hint)
