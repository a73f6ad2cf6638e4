"""IAPR TC-12 from its annotation files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mrnn_exporters.datasets.common import Example, damaged, first_of, split_of
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# Tags as in XML, but texts hold bare ampersands, so an XML parser refuses the files.
_DESCRIPTION = re.compile(r"<DESCRIPTION>(.*?)</DESCRIPTION>", re.DOTALL)
_IMAGE = re.compile(r"<IMAGE>\s*(?:images/)?(\S+?)\s*</IMAGE>")


def iapr_tc12(root: Path, split: str) -> list[Example]:
    """Read ``annotations_complete_eng/*/*.eng``, ISO-8859-1.

    A caption is a sentence of the description; a semicolon ends it. A photo without a description
    is left out. The files name no split, see :func:`~mrnn_exporters.datasets.common.split_of`; the
    key is the photo's, for example ``00/25.jpg``.

    Raises:
        UsageError: there are no such files, or one lacks its tags.
    """
    annotations = first_of(root, ("annotations_complete_eng",), folder=True)
    photos = first_of(root, ("images",), folder=True)
    captions: dict[str, tuple[str, ...]] = {}
    for path in sorted(annotations.glob("*/*.eng")):
        text = path.read_text(encoding="iso-8859-1")
        image, description = _IMAGE.search(text), _DESCRIPTION.search(text)
        if image is None or description is None:
            what = "<IMAGE>" if image is None else "<DESCRIPTION>"
            raise damaged(path, 1 + text.rstrip().count("\n"), f"ends without {what}")
        parts = (" ".join(part.split()) for part in description[1].split(";"))
        if said := tuple(part for part in parts if part):
            captions[image[1]] = said
    if not captions:
        raise UsageError(
            f"{annotations}: holds no description in */*.eng",
            hint="name the folder that holds annotations_complete_eng and images",
        )
    return [Example(photos / name, captions[name]) for name in split_of(root, split, captions)]
