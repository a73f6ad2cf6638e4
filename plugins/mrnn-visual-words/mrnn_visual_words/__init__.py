"""The reranker ``visual-words``. Light; the work is in ``reranker``."""

from __future__ import annotations

from mrnn_runtime import Component, hookimpl

MRNN_CONTRACT = 1


@hookimpl
def mrnn_rerankers() -> list[Component]:
    """Register the reranker."""
    return [
        Component(
            "visual-words",
            "mrnn_visual_words.reranker:VisualWords",
            "prefers words that people use for similar photos more than for others",
        )
    ]
