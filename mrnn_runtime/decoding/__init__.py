"""Searches for captions, and what a search is built from.

``greedy``, ``beam`` and ``sample`` hold the decoders; they are loaded by name, so nothing here
imports them. A decoder of your own starts from the names below.
"""

from mrnn_runtime.decoding.constraints import Constraints
from mrnn_runtime.decoding.hypotheses import Hypotheses, extend_to_end, make_candidate, rank

__all__ = ["Constraints", "Hypotheses", "extend_to_end", "make_candidate", "rank"]
