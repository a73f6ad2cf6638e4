"""The model ``flickr8k-int8``: a bundle and the hook that names it. Data only."""

from __future__ import annotations

from pathlib import Path

from mrnn_runtime import Component, hookimpl


@hookimpl
def mrnn_models() -> list[Component]:
    """Register the bundle."""
    return [
        Component(
            "flickr8k-int8",
            "mrnn_flickr8k_int8:bundle_path",
            "flickr8k in 8-bit integers: smaller and faster, nearly the same captions",
        )
    ]


def bundle_path() -> Path:
    """Return the bundle's folder."""
    return Path(__file__).parent / "bundle"
