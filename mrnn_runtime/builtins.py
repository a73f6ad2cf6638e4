"""What the runtime itself brings, through the same door as everybody else."""

from __future__ import annotations

from mrnn_runtime.contracts import Component
from mrnn_runtime.hookspecs import hookimpl


@hookimpl
def mrnn_decoders() -> list[Component]:
    """Register the decoders that every installation has."""
    return [
        Component(
            "greedy",
            "mrnn_runtime.decoding.greedy:Greedy",
            "the best word at every step; fastest",
        ),
        Component(
            "beam",
            "mrnn_runtime.decoding.beam:Beam",
            "beam search over whole captions; better, and the default",
        ),
        Component(
            "sample",
            "mrnn_runtime.decoding.sample:Sample",
            "captions drawn from the model's distribution, repeatable by seed",
        ),
    ]
