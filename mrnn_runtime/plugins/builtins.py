"""What the runtime itself brings, through the same door as everybody else."""

from __future__ import annotations

from mrnn_runtime.plugins.contracts import Component
from mrnn_runtime.plugins.hookspecs import hookimpl


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


@hookimpl
def mrnn_rerankers() -> list[Component]:
    """Register the rerankers that every installation has."""
    return [
        Component(
            "consensus-cider",
            "mrnn_runtime.reranking.rerankers:consensus_cider",
            "agrees most, by CIDEr-D, with what people said about similar photos",
        ),
        Component(
            "consensus-bleu",
            "mrnn_runtime.reranking.rerankers:consensus_bleu",
            "agrees most, by shared n-grams, with what people said about similar photos",
        ),
        Component(
            "log-prob", "mrnn_runtime.reranking.rerankers:log_prob", "the most likely caption"
        ),
        Component(
            "length-normalised",
            "mrnn_runtime.reranking.rerankers:length_normalised",
            "the caption that is most likely per word",
        ),
    ]
