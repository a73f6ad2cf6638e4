"""The model ``everyday``: a bundle and the hook that names it. Data only."""

from __future__ import annotations

from pathlib import Path

from mrnn_runtime import Component, hookimpl


@hookimpl
def mrnn_models() -> list[Component]:
    """Register the bundle."""
    return [
        Component(
            "everyday",
            "mrnn_everyday:bundle_path",
            "English captions of everyday photos, trained on Flickr8k, COCO and Flickr30k photos",
        )
    ]


def bundle_path() -> Path:
    """Return the bundle's folder."""
    return Path(__file__).parent / "bundle"
