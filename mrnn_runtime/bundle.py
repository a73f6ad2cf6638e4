"""The bundle: one folder that holds a model and everything that must not drift apart from it.

A bundle is data, never code: nothing here unpickles, and no name in a bundle leads out of its
folder. Its checksums guard against damage and drift, so that one changed byte in any file is an
error. They do not say who made it; where that matters, take bundles from a source that you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_runtime.errors import BundleError
from mrnn_runtime.fields import Fields
from mrnn_runtime.manifest import (
    MANIFEST,
    Bundle,
    FileFact,
    GraphSpec,
    StateSpec,
    TensorSpec,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "FileFact",
    "GraphSpec",
    "StateSpec",
    "TensorSpec",
    "load_bundle",
    "write_manifest",
]

FORMAT_VERSION = 1
_SEAL = "manifest_sha256"
_DAMAGED = "copy, download or export the bundle again"


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle and check all that it says: format, fields, paths, checksums, tensors.

    Raises:
        BundleError: the folder is no bundle, or a damaged, unsafe or newer one.
    """
    root = Path(os.path.realpath(folder))
    path = root / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is no bundle: it holds no {MANIFEST}",
            hint="name the folder of a bundle, or a model that `mrnn models` lists",
        )
    _check_place(root, MANIFEST)
    try:
        top = Fields(json.loads(path.read_bytes()), path)
        seal = _seal(top.values)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}", hint=_DAMAGED) from error
    version = top.integer("format", 1)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format {version}; this mrnn-runtime reads formats up to {FORMAT_VERSION}",
            hint="pip install --upgrade mrnn-runtime",
        )
    if top.text(_SEAL) != seal:
        raise BundleError(f"{path} was changed: {_SEAL} does not fit the rest", hint=_DAMAGED)
    bundle = parse(root, top)
    _check_files(bundle)
    return bundle


def write_manifest(folder: Path | str, manifest: Mapping[str, Any]) -> None:
    """Write ``bundle.json``, with the size and the checksum of every file of the folder filled in.

    It is checked as loading would check it, before an older one is replaced.

    Args:
        folder: where the bundle's other files lie already. Hidden files are no part of a bundle.
        manifest: the fields of ``bundle.json``; ``format``, ``files`` and the seal come from here.

    Raises:
        BundleError: a field is missing or wrong, or a file has a name or place that no bundle has.
    """
    root = Path(os.path.realpath(folder))
    facts = {}
    for name in sorted(_files_in(root)):
        _check_place(root, name)
        facts[name] = {"sha256": _sha256(root / name), "bytes": (root / name).stat().st_size}
    filled = {**manifest, "format": FORMAT_VERSION, "files": facts}
    try:
        filled[_SEAL] = _seal(filled)
        text = json.dumps(filled, indent=1, allow_nan=False) + "\n"
        # Tuples and other look-alikes turn into what loading will see.
        parse(root, Fields(json.loads(text), root / MANIFEST))
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"the manifest of {folder} is no JSON: {error}") from error
    scratch = root / f".{MANIFEST}.{os.getpid()}"
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(root / MANIFEST)


def _seal(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of all fields but the seal itself, whatever their order and layout."""
    rest = {key: value for key, value in manifest.items() if key != _SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files_in(root: Path) -> Iterator[str]:
    """Yield what is visible below ``root`` but bundle.json: the files, and links to folders."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            path = Path(folder, name).relative_to(root).as_posix()
            if not name.startswith(".") and path != MANIFEST:
                yield path


def _check_place(root: Path, name: str) -> None:
    """Refuse what lies outside the folder, and what is no ordinary file: a pipe would hang."""
    path = root / name
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(root):
        raise BundleError(
            f"{path} is a link to {target}, outside the bundle",
            hint="copy the bundle with links followed: cp -rL",
        )
    if not path.is_file():
        raise BundleError(f"{path} is missing, or is no ordinary file", hint=_DAMAGED)


def _check_files(bundle: Bundle) -> None:
    root = bundle.folder
    surplus = sorted(set(_files_in(root)) - set(bundle.files))
    if surplus:
        raise BundleError(
            f"{root} holds files that {MANIFEST} does not list: {', '.join(map(repr, surplus))}",
            hint="move them elsewhere, or export the bundle again",
        )
    for name, fact in bundle.files.items():
        path = root / name
        try:
            _check_place(root, name)
            size = path.stat().st_size
            if size != fact.bytes:
                raise BundleError(f"{path} has {size} bytes, not {fact.bytes}", hint=_DAMAGED)
            if _sha256(path) != fact.sha256:
                raise BundleError(
                    f"{path} was changed: its sha256 is not the one in {MANIFEST}", hint=_DAMAGED
                )
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error}", hint=_DAMAGED) from error
