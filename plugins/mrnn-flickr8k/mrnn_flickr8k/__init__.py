"""The model ``flickr8k``: a bundle and the hook that names it. Data only."""

from __future__ import annotations

from pathlib import Path

from mrnn_runtime import Component, hookimpl


@hookimpl
def mrnn_models() -> list[Component]:
    """Register the bundle."""
    return [
        Component(
            "flickr8k",
            "mrnn_flickr8k:bundle_path",
            "English captions of people, dogs and outdoor scenes, trained on Flickr8k",
        )
    ]


def bundle_path() -> Path:
    """Return the bundle's folder."""
    return Path(__file__).parent / "bundle"
