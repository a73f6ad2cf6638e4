"""What is looked at in an ONNX file before ONNX Runtime gets it; onnx itself is no dependency.

ONNX Runtime checks what it loads, but a few hundred bytes of functions that call each other twice
keep it busy for ever, a loop need not end, and its crashes were found in operators that are not of
the ONNX standard. No graph of a bundle needs any of these, so they are refused. What is left are
plain operators; whoever wants to keep a machine busy with those still can, so the rule stays: take
bundles from a source that you trust.
"""

from __future__ import annotations

from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING

from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Numbers of fields in ONNX's messages.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE = 1
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_STANDARD = (b"", b"ai.onnx")


def check_plain(path: Path) -> None:
    """Refuse a graph with functions, with graphs inside of its nodes, or with foreign operators.

    Raises:
        BundleError: it has some, or the file is no ONNX file.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as model:
            complaint = next(_complaints(model), None)
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(
            f"{path} does not load: it is no ONNX file", hint="export the bundle again"
        ) from error
    if complaint:
        raise BundleError(
            f"{path} has {complaint}, which no bundle needs and may do harm",
            hint="export it from plain layers, and take bundles from a source that you trust",
        )


def _complaints(model: mmap) -> Iterator[str]:
    for field, *place in fields(model, 0, len(model)):
        if field == _MODEL_FUNCTIONS:
            yield "functions of its own"
        if field == _MODEL_GRAPH:
            for inner, *node in fields(model, *place):
                if inner == _GRAPH_NODE:
                    yield from _complaints_of_node(model, *node)


def _complaints_of_node(model: mmap, start: int, stop: int) -> Iterator[str]:
    for field, *place in fields(model, start, stop):
        if field == _NODE_DOMAIN and model[slice(*place)] not in _STANDARD:
            yield f"an operator of {model[slice(*place)]!r:.60}"
        if field == _NODE_ATTRIBUTE:
            for inner, *_ in fields(model, *place):
                if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    yield "a graph inside of a node"


def fields(data: mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of the protobuf message from ``at`` to ``end``: number, start, end.

    Raises:
        ValueError, IndexError: it is no such message.
    """
    while at < end:
        key, at = _number(data, at)
        size = 0
        match key & 7:
            case 0:
                _, at = _number(data, at)
            case 1:
                size = 8
            case 2:
                size, at = _number(data, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"fields of kind {kind}")
        if at + size > end:
            raise ValueError("it is cut")
        yield key >> 3, at, at + size
        at += size


def _number(data: mmap, at: int) -> tuple[int, int]:
    """Return a number, seven bits a byte, and where it ends."""
    number = shift = 0
    while (byte := data[at]) > 127:
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
    return number | byte << shift, at + 1
