"""Small helpers for graphs that are written as ONNX text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import NodeProto, parser

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def nodes_of(text: str) -> list[NodeProto]:
    """Return the nodes of a graph in ONNX text; where it takes what it names is no matter."""
    return list(parser.parse_graph(text).node)


def rename(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Give tensors their new names; a name that is not there stays. Nodes lose theirs."""
    for node in nodes:
        node.name = ""
        for place in (node.input, node.output):
            place[:] = [names.get(name, name) for name in place]
