"""How much memory the constants of a graph may take once ONNX Runtime has loaded it.

ONNX Runtime computes at load time what depends on constants only, outside of the memory that
sessions are bound to. A few hundred bytes may ask for gigabytes there, so it is estimated first.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_runtime.engine.onnx_format import Message

_SMALL = 2**16  # elements that anything may have
_BYTES = 4  # of an element: weights are float32 when they are used
# Operators whose output may be larger than all combinations of their inputs' elements.
_GROWING = frozenset(
    b"ConstantOfShape Expand EyeLike OneHot Pad Range Resize Tile ConvTranspose".split()
)
# Whose output has at most as many elements as the first input; the others say how.
_SHAPING = frozenset(
    b"""
    Abs Cast Ceil Clip DequantizeLinear Exp Flatten Floor Identity Neg Not QuantizeLinear Reciprocal
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape Slice Split Sqrt Squeeze Transpose
    Unsqueeze
    """.split()
)
_SHAPES = (b"Shape", b"Size")
_MOST_DIMENSIONS = 8


def footprint(graph: Message) -> tuple[int, int]:
    """Estimate the memory for a graph's constants from above.

    Returns:
        Bytes of all weights and of what is computed of them at load time, and the most bytes that
        one such result needs: what is larger must not be computed then.
    """
    sizes = {tensor.get("name", b""): _elements(tensor) for tensor in graph.get("initializer", ())}
    nodes = graph.get("node", ())
    for node in nodes:
        if node.get("op_type") == b"Constant":
            (name, *_) = node.get("output", (b"",))
            sizes[name] = max(map(_constant, node.get("attribute", ())), default=1)
    largest = max(_SMALL, *sizes.values()) if sizes else _SMALL
    total = sum(sizes.values())
    shapes: dict[bytes, bytes] = {}  # the tensor that each is the shape of
    for node in nodes:  # in the order in which they can be computed
        op, inputs = node.get("op_type"), node.get("input", ())
        if op in _SHAPES and inputs:
            size = _MOST_DIMENSIONS
            shapes.update(dict.fromkeys(node.get("output", ()), inputs[0]))
        elif op == b"ConstantOfShape" and inputs and inputs[0] in shapes:
            if shapes[inputs[0]] not in sizes:  # as large as what is computed at run time
                continue
            size = sizes[shapes[inputs[0]]]
        elif inputs and all(name in sizes or not name for name in inputs):
            size = min(_size(op, [max(1, sizes.get(name, 1)) for name in inputs]), largest)
        else:
            continue
        for name in node.get("output", ()):
            sizes[name] = size
            total += size
    return _BYTES * total, _BYTES * largest


def _size(op: bytes, inputs: Sequence[int]) -> int:
    """Return how many elements an output has at most, by those of the inputs."""
    if op in _GROWING:
        return 2**63
    if op in _SHAPING:
        return inputs[0]
    if op == b"Concat":
        return sum(inputs)
    if op == b"Gather" and inputs[0] <= _MOST_DIMENSIONS:  # of a shape
        return inputs[1]
    return prod(inputs)


def _elements(tensor: Message) -> int:
    return prod(tensor.get("dims", ()))


def _constant(attribute: Message) -> int:
    """Return how many elements a node's constant has."""
    if "t" in attribute:
        return _elements(attribute["t"])
    return max(1, sum(len(attribute.get(key, ())) for key in ("ints", "floats", "strings")))
