"""Tars of photos with their captions beside them, as WebDataset has them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from mrnn_exporters.datasets.common import Example, Member, damaged, split_of
from mrnn_runtime import UsageError
from mrnn_runtime.build import IMAGE_SUFFIXES

_WORDS = (".txt", ".json")


def webdataset(root: Path, split: str) -> list[Example]:
    """Read ``*.tar``: KEY.jpg (or another kind of photo) and KEY.txt or KEY.json beside it.

    KEY is the name in the tar, folders included. A .txt holds one caption a line, a .json a
    ``caption`` or a list of ``captions``. Nothing is unpacked: photos are read where they lie. The
    splits are those of :func:`~mrnn_exporters.datasets.common.split_of`, by TAR/KEY.

    Raises:
        UsageError: there is no tar, one is damaged or compressed, or a photo has no caption.
    """
    tars = sorted(root.glob("*.tar"))
    if not tars:
        raise UsageError(f"{root}: holds no tar", hint="name the folder of the .tar files")
    photos: dict[str, tuple[Member, Member]] = {}
    for tar in tars:
        members = _members(tar)
        words = {key: member for key, member in members if _suffix(member) in _WORDS}
        for key, member in members:
            if _suffix(member) in IMAGE_SUFFIXES:
                if key not in words:
                    raise damaged(tar, member.name, "no .txt or .json says what is on it")
                photos[f"{tar.stem}/{key}"] = (member, words[key])
    return [
        Example(photos[key][0], _captions(photos[key][1])) for key in split_of(root, split, photos)
    ]


def _suffix(member: Member) -> str:
    return Path(member.name).suffix.lower()


def _members(tar: Path) -> list[tuple[str, Member]]:
    """Return key and place of the files of a tar, in the keys' order."""
    try:
        with tarfile.open(tar, "r:") as opened:
            members = [
                (str(path.parent / path.stem), Member(tar, path.name, one.offset_data, one.size))
                for one in opened
                for path in (Path(one.name),)
                if one.isreg() and not one.issparse()
            ]
        size = tar.stat().st_size
    except (tarfile.TarError, EOFError) as error:
        raise damaged(tar, "?", f"no whole tar, or a compressed one: {error}") from error
    except OSError as error:
        raise UsageError(f"{tar} cannot be read: {error.strerror}") from error
    if cut := next((one for _, one in members if one.offset + one.size > size), None):
        raise damaged(tar, cut.name, "no whole tar: the file ends before it does")
    return sorted(members, key=lambda entry: (entry[0], entry[1].name))


def _captions(words: Member) -> tuple[str, ...]:
    try:
        text = words.read().decode()
        said: Any = text.splitlines()
        if _suffix(words) == ".json":
            fields = json.loads(text)
            said = fields.get("captions") or [fields["caption"]]
            if not isinstance(said, list):
                raise TypeError("captions must be a list of texts")
        captions = tuple(one.strip() for one in said if one.strip())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(words.archive, words.name, f"no captions: {error}") from error
    if not captions:
        raise damaged(words.archive, words.name, "no captions")
    return captions
