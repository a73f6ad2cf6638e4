"""Tars of photos with their captions beside them, as WebDataset has them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from mrnn_exporters.datasets.common import Example, damaged, split_of
from mrnn_runtime import UsageError
from mrnn_runtime.build import IMAGE_SUFFIXES

_WORDS = (".txt", ".json")


def webdataset(root: Path, split: str) -> list[Example]:
    """Read ``*.tar``: KEY.jpg (or another kind of photo) and KEY.txt or KEY.json beside it.

    A .txt holds one caption a line, a .json a ``caption`` or a list of ``captions``. Tars are
    unpacked once, into ``.unpacked`` beside them, since features and exports look at single photos
    again; who removes that folder loses nothing but time. The splits are those of
    :func:`~mrnn_exporters.datasets.common.split_of`, by TAR/KEY.

    Raises:
        UsageError: there is no tar, one is damaged, or a photo has no caption.
    """
    tars = sorted(root.glob("*.tar"))
    if not tars:
        raise UsageError(
            f"{root}: holds no tar", hint="--root must be the folder of the .tar files"
        )
    photos: dict[str, tuple[Path, Path]] = {}
    for tar in tars:
        folder = _unpacked(tar)
        words = {path.stem: path for path in folder.iterdir() if path.suffix in _WORDS}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                if path.stem not in words:
                    raise damaged(tar, path.name, "no .txt or .json says what is on it")
                photos[f"{tar.stem}/{path.stem}"] = (path, words[path.stem])
    return [
        Example(photos[key][0], _captions(photos[key][1])) for key in split_of(root, split, photos)
    ]


def _unpacked(tar: Path) -> Path:
    """Return the folder with the files of a tar; it is there as a whole or not at all."""
    status = tar.stat()
    folder = tar.parent / ".unpacked" / f"{tar.stem}-{status.st_size}-{status.st_mtime_ns}"
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        with tarfile.open(tar, "r|*") as members:
            for member in members:
                name = Path(member.name).name  # never outside of the folder
                wanted = Path(name).suffix.lower() in IMAGE_SUFFIXES | {*_WORDS}
                if member.isfile() and wanted and (content := members.extractfile(member)):
                    with (part / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        part.rename(folder)
    except (tarfile.TarError, EOFError) as error:
        raise damaged(tar, "?", f"no whole tar: {error}") from error
    except OSError as error:
        raise UsageError(
            f"{tar} cannot be unpacked into {folder.parent}: {error.strerror}",
            hint="make room there, or make the folder one that can be written",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _captions(words: Path) -> tuple[str, ...]:
    try:
        text = words.read_text(encoding="utf-8")
        said: Any = text.splitlines()
        if words.suffix == ".json":
            fields = json.loads(text)
            said = fields.get("captions") or [fields["caption"]]
        captions = tuple(one.strip() for one in said if one.strip())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(words, "?", f"no captions: {error}") from error
    if not captions:
        raise damaged(words, "?", "no captions")
    return captions
