"""Readers of image caption corpora, each from the corpus's own files.

``read("flickr8k", root, "train")`` returns the examples of a split, in the corpus's order. A photo
that is missing is counted and named in a warning; more than one in a hundred is an error.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_exporters.datasets.coco import coco, karpathy
from mrnn_exporters.datasets.common import ALL, FOLDER, SPLITS, Example, Member, as_image, file_of
from mrnn_exporters.datasets.flickr import flickr8k, flickr30k
from mrnn_exporters.datasets.folder import folder
from mrnn_exporters.datasets.iapr import iapr_tc12
from mrnn_exporters.datasets.tars import webdataset
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "READERS",
    "SPLITS",
    "Example",
    "Member",
    "as_image",
    "file_of",
    "read",
    "read_several",
    "refuse_many",
]

READERS: Mapping[str, Callable[[Path, str], list[Example]]] = {
    "flickr8k": flickr8k,
    "flickr30k": flickr30k,
    "iapr-tc12": iapr_tc12,
    "coco": coco,
    "karpathy": karpathy,
    "folder": folder,
    "webdataset": webdataset,
}
MAX_LOST = 0.01
_WHOLE = f"/{ALL}"

_log = logging.getLogger(__name__)


def read(name: str, root: Path | str, split: str) -> list[Example]:
    """Return the examples of one split.

    Args:
        name: one of :data:`READERS`; with ``/all`` behind it, all photos are training photos,
            those of no split too, and there are no others.
        root: the folder that holds the corpus's own files.
        split: train, dev or test.

    Raises:
        UsageError: an unknown name or split, a file that is missing or damaged (named, with the
            line), an empty split, or more than 1 % of the photos missing.
    """
    corpus = name.removesuffix(_WHOLE)
    if corpus not in READERS:
        close = difflib.get_close_matches(corpus, READERS, n=1)
        raise UsageError(
            f"unknown data set {corpus!r}",
            hint=f"did you mean {close[0]}?" if close else f"use one of {', '.join(READERS)}",
        )
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}", hint=f"use one of {', '.join(SPLITS)}")
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", hint=FOLDER.replace("NAME", name))
    if not name.endswith(_WHOLE):
        examples = READERS[corpus](root, split)
    else:
        examples = READERS[corpus](root, ALL) if split == "train" else []
    if not examples:
        raise UsageError(f"{root}: {name} has no photo in split {split}", hint="use another split")
    missing = [e.path for e in examples if not file_of(e.path).is_file()]
    refuse_many(f"{name}, {split}: photos missing", missing, len(examples))
    gone = set(missing)
    return [e for e in examples if e.path not in gone]


def read_several(sets: Iterable[tuple[str, str]], split: str) -> list[Example]:
    """Return the examples of one split of several data sets, each a name and a folder.

    Those with ``/all`` behind the name are left out of dev and test.

    Raises:
        UsageError: as ``read``.
    """
    return [
        example
        for name, root in sets
        if split == "train" or not name.endswith(_WHOLE)
        for example in read(name, root, split)
    ]


def refuse_many(what: str, lost: Sequence[Path | Member], total: int) -> None:
    """Warn of the photos that are lost and name them; refuse to go on where they are more than 1 %.

    Raises:
        UsageError: more than 1 % of ``total`` are lost.
    """
    if not lost:
        return
    names = ", ".join(path.name for path in lost[:10]) + (", ..." if len(lost) > 10 else "")
    message = f"{what}: {len(lost)} of {total}: {names}"
    if len(lost) > MAX_LOST * total:
        raise UsageError(
            message, hint=f"the folder {file_of(lost[0]).parent} is not complete; fetch it again"
        )
    _log.warning("%s; left out", message)
