"""Flickr8K and Flickr30K from their own token files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_exporters.datasets.common import (
    ALL,
    Example,
    damaged,
    first_of,
    lines,
    split_of,
    token_file,
)

if TYPE_CHECKING:
    from pathlib import Path


def flickr8k(root: Path, split: str) -> list[Example]:
    """Read ``Flickr8k.token.txt`` and the official list of the split, in the list's order.

    About a hundred photos are in no list.

    Raises:
        UsageError: a file is missing or damaged, or the list names a photo without captions.
    """
    captions = token_file(
        first_of(root, ("Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt"))
    )
    photos = first_of(root, ("images", "Images", "Flicker8k_Dataset"), folder=True)
    if split == ALL:
        return [Example(photos / photo, captions[photo]) for photo in captions]
    name = f"Flickr_8k.{split}Images.txt"
    listed = first_of(root, (name, f"Flickr8k_text/{name}"))
    examples = []
    for number, photo in lines(listed):
        if photo not in captions:
            raise damaged(listed, number, f"{photo} has no captions in Flickr8k.token.txt")
        examples.append(Example(photos / photo, captions[photo]))
    return examples


def flickr30k(root: Path, split: str) -> list[Example]:
    """Read ``results_20130124.token``.

    It names no split, see :func:`~mrnn_exporters.datasets.common.split_of`; the key is the name.

    Raises:
        UsageError: a file is missing or damaged.
    """
    captions = token_file(
        first_of(root, ("results_20130124.token", "flickr30k/results_20130124.token"))
    )
    photos = first_of(root, ("flickr30k-images", "flickr30k_images", "images"), folder=True)
    return [Example(photos / name, captions[name]) for name in split_of(root, split, captions)]
