"""The decoder ``diverse-beam``. Light; the search is in ``search``."""

from __future__ import annotations

from mrnn_runtime import Component, hookimpl


@hookimpl
def mrnn_decoders() -> list[Component]:
    """Register the decoder."""
    return [
        Component(
            "diverse-beam",
            "mrnn_diverse_beam.search:DiverseBeam",
            "beam search in groups that avoid each other's words: captions that differ",
        )
    ]
