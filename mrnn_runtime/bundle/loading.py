"""The bundle: one folder that holds a model and everything that must not drift apart from it.

A bundle is data, never code: nothing here unpickles, and no name in a bundle leads out of its
folder. Its checksums guard against damage and drift, so that one changed byte in any file is an
error. They do not say who made it; where that matters, take bundles from a source that you trust.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.checksums import CheckedFolder, unfilled
from mrnn_runtime.bundle.manifest import MANIFEST, REFERENCES, parse
from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mrnn_runtime.bundle.manifest import Bundle

FORMAT_VERSION = 1
_HINT = "copy, download or export the bundle again; bundle.json is not written by hand"


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle and check all that it says: format, fields, paths, checksums, tensors.

    Raises:
        BundleError: the folder is no bundle, or a damaged, unsafe or newer one.
    """
    checked = _checked(folder)
    if not (checked.root / MANIFEST).is_file():
        why = "it is a file" if checked.root.is_file() else f"it holds no {MANIFEST}"
        raise BundleError(
            f"{folder} is no bundle: {why}",
            hint="name the folder of a bundle, or a model that `mrnn models` lists",
        )
    bundle = parse(checked.root, checked.read())
    checked.check(bundle.files, spare=set(REFERENCES) - {bundle.references})
    return bundle


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Return what ``write_manifest`` takes, so that a bundle can be given more files or fields.

    Raises:
        BundleError: ``bundle.json`` is missing, damaged or newer.
    """
    return unfilled(_checked(folder).read())


def write_manifest(folder: Path | str, manifest: Mapping[str, Any]) -> None:
    """Write ``bundle.json``, with the size and the checksum of every file of the folder filled in.

    It is checked as loading would check it, before an older one is replaced.

    Args:
        folder: where the bundle's other files lie already. Hidden files are no part of a bundle.
        manifest: the fields of ``bundle.json``; ``format``, ``files`` and checksums come from here.
            Of the two folders that references may lie in, only the one that it names is listed.

    Raises:
        BundleError: a field is missing or wrong, or a file has a name or place that no bundle has.
    """
    checked = _checked(folder)
    spare = set(REFERENCES) - {manifest.get("references", REFERENCES[0])}
    checked.write(manifest, lambda top: parse(checked.root, top), spare=spare)


def _checked(folder: Path | str) -> CheckedFolder:
    return CheckedFolder(Path(os.path.realpath(folder)), MANIFEST, FORMAT_VERSION, _HINT)
