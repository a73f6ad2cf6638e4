"""One's own photos: a folder with ``captions.jsonl``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mrnn_exporters.datasets.common import SPLITS, Example, damaged, lines, split_of

if TYPE_CHECKING:
    from pathlib import Path


def folder(root: Path, split: str) -> list[Example]:
    """Read ``captions.jsonl``: one object a line, ``{"file": "a.jpg", "captions": ["...", ...]}``.

    ``file`` is relative to ``root``. Either every line has a ``split`` (train, dev or test) or none
    has; without, :func:`~mrnn_exporters.datasets.common.split_of` decides by ``file``.

    Raises:
        UsageError: the file is missing, or a line is not of that form.
    """
    path = root / "captions.jsonl"
    captions: dict[str, tuple[str, ...]] = {}
    splits: dict[str, str] = {}
    for number, line in lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise damaged(path, number, f"not JSON: {error.msg}") from error
        match record:
            case {"file": str(name), "captions": [_, *_] as said} if all(
                isinstance(s, str) and s.strip() for s in said
            ):
                captions[name] = tuple(s.strip() for s in said)
            case _:
                raise damaged(path, number, "expected file, and captions: a list of texts")
        part = record.get("split")
        if part in SPLITS:
            splits[name] = part
        if (part is not None and part not in SPLITS) or len(splits) not in (0, len(captions)):
            raise damaged(path, number, f"split must be one of {', '.join(SPLITS)}, on every line")
    chosen = (
        [n for n in captions if splits[n] == split] if splits else split_of(root, split, captions)
    )
    return [Example(root / name, captions[name]) for name in chosen]
