"""One's own photos: a folder with ``captions.jsonl``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mrnn_exporters.datasets.common import ALL, SPLITS, Example, damaged, lines, split_of

if TYPE_CHECKING:
    from pathlib import Path


def folder(root: Path, split: str) -> list[Example]:
    """Read ``captions.jsonl``: one object a line, ``{"file": "a.jpg", "captions": ["...", ...]}``.

    ``file`` is relative to ``root``; several lines of one file add their captions up. Either every
    line has a ``split`` (train, dev or test) or none has; without,
    :func:`~mrnn_exporters.datasets.common.split_of` decides by ``file``.

    Raises:
        UsageError: the file is missing, or a line is not of that form.
    """
    path = root / "captions.jsonl"
    captions: dict[str, tuple[str, ...]] = {}
    splits: dict[str, str | None] = {}
    for number, line in lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise damaged(path, number, f"not JSON: {error.msg}") from error
        match record:
            case {"file": str(name), "captions": [_, *_] as said} if all(
                isinstance(s, str) and s.strip() for s in said
            ):
                captions[name] = captions.get(name, ()) + tuple(s.strip() for s in said)
            case _:
                raise damaged(path, number, "expected file, and captions: a list of texts")
        part = record.get("split")
        known = part in SPLITS or part is None
        if not known or splits.setdefault(name, part) != part:
            what = f"split must be one of {', '.join(SPLITS)}, the same one for a file"
            raise damaged(path, number, what)
        if (part is None) != (next(iter(splits.values())) is None):
            raise damaged(path, number, "split must be on every line, or on none")
    if split == ALL:
        chosen = list(captions)
    elif any(splits.values()):
        chosen = [name for name in captions if splits[name] == split]
    else:
        chosen = split_of(root, split, captions)
    return [Example(root / name, captions[name]) for name in chosen]
