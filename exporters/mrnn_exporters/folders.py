"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mrnn_runtime import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refuse_no_bundle(folder: Path) -> None:
    """Refuse what is no folder of a bundle, for a command that would change the bundle.

    Raises:
        BundleError: it is none.
    """
    if not (folder / "bundle.json").is_file():
        raise BundleError(
            f"{folder} is no bundle: it holds no bundle.json",
            hint="name the folder of a bundle; an installed model is not changed",
        )


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``target`` at the end; of a failure nothing is left.

    Raises:
        UsageError: ``target`` is in use: only an empty folder may lie there.
        BundleError: it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already", hint="name a new folder")
    target = target.absolute()
    scratch = target.parent / f".{target.name}.{os.getpid()}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error}", hint="name another") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
