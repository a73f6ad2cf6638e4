"""What is checked of a graph is what runs: ONNX Runtime gets the bytes that were checked, no file.

Operators must be on a list, weights lie in the bundle's files, and there are no more nodes and
tensors than cost little memory. What the operators compute is bounded by the memory that sessions
may take (:mod:`mrnn_runtime.engine.sessions`), their time is not.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.engine.footprint import footprint
from mrnn_runtime.engine.onnx_format import RefusedError, read_model, read_number
from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from mrnn_runtime.engine.onnx_format import Message

MOST_BYTES = 2**31 - 1  # of a file, as of every protobuf message
MOST_TRIPS = 64  # of the one loop of a flattened graph
MOST_BATCH_DIMS = 8
_TERM = rb"[A-Za-z ]*(\.\.\.)?[A-Za-z ]*"  # of an Einsum
_EQUATION = re.compile(rb"%b(,%b)*(->%b)?" % (_TERM, _TERM, _TERM))

# Operators of the ONNX standard that map numbers to numbers. Not there: graphs inside of nodes,
# sequences, maps, strings, random numbers, decoders of images, and the fused attention operators,
# in which crashes of ONNX Runtime were found.
OPERATORS = frozenset(
    b"""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip
    Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor
    GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow
    QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()
)
_STANDARD = (b"", b"ai.onnx")

_EXTERNAL = 1
_FILE = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """A model that may be run.

    Attributes:
        data: the content of its file.
        constants: bytes that its weights may take, and what is computed of them at load time.
        largest: bytes of the largest such result that may be computed then.
        whole: whether all weights are in the file.
    """

    data: bytes
    constants: int
    largest: int
    whole: bool


def checked_graph(
    path: Path, files: Collection[str] | None = None, *, flattened: bool = False
) -> CheckedGraph:
    """Read an ONNX file, check it, and return the model to run.

    Args:
        path: the file.
        files: where its weights may lie, by their path from the file's folder; None allows any
            file below that folder.
        flattened: whether it is a graph of ``mrnn flatten``: it has one Loop, whose number of trips
            is a constant of at most MOST_TRIPS.

    Raises:
        BundleError: the file is no ONNX model, or has something that no graph of a bundle needs.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RefusedError(f"more than {MOST_BYTES} bytes")
        data = path.read_bytes()
        model = read_model(data, flattened=flattened)
        graph, loop = model["graph"], None
        if flattened:
            loop = _only_loop(graph, data)
        graphs = [graph, *_inner(loop)]
        for one in graphs:
            _check_nodes(one, loop)
        tensors = [tensor for one in graphs for tensor in _tensors(one)]
        for tensor in tensors:
            _check_tensor(tensor, path, files)
    except RefusedError as error:
        raise BundleError(
            f"{path} has {error}, which no bundle needs and may do harm",
            hint="export it from plain layers, and take bundles from a source that you trust",
        ) from None
    except (OSError, ValueError, IndexError, MemoryError) as error:
        raise BundleError(
            f"{path} does not load: it is no ONNX file ({error})", hint="export the bundle again"
        ) from error
    totals, largest = zip(*map(footprint, graphs), strict=True)
    whole = not any("external_data" in tensor for tensor in tensors)
    return CheckedGraph(data, sum(totals), max(largest), whole)


def _only_loop(graph: Message, data: bytes) -> Message:
    """Return the one loop of a flattened graph, whose trips are few and known."""
    loops = [node for node in _nodes(graph) if node.get("op_type") == b"Loop"]
    if len(loops) != 1:
        raise RefusedError(f"{len(loops)} loops instead of one")
    name = next(iter(loops[0].get("input", ())), b"")
    makers = [tensor for tensor in graph.get("initializer", ()) if tensor.get("name") == name]
    makers += [value for value in graph.get("input", ()) if value.get("name") == name]
    for node in _nodes(graph):
        if name in node.get("output", ()):
            is_constant = node.get("op_type") == b"Constant"
            attributes = node.get("attribute", ()) if is_constant else ()
            makers += [one.get("t", {}) for one in attributes] or [{}]
    trips = _whole_number(makers[0], data) if len(makers) == 1 else None
    if trips is None or not 0 <= trips <= MOST_TRIPS:
        raise RefusedError(f"a loop whose number of trips is no constant of at most {MOST_TRIPS}")
    return loops[0]


def _whole_number(tensor: Message, data: bytes) -> int | None:
    """Return the only number of an int64 tensor, read as unsigned, or None."""
    forms = tensor.keys() & {"int64_data", "raw_data", "external_data", "data_location"}
    match tensor:
        case {"data_type": 7, "raw_data": (start, stop)} if len(forms) == 1 and stop - start == 8:
            return int.from_bytes(data[start:stop], "little")
        case {"data_type": 7, "int64_data": [(start, stop)]} if len(forms) == 1 and stop > start:
            number, end = read_number(data, start)
            return number if end == stop else None
    return None


def _nodes(graph: Message) -> Sequence[Message]:
    nodes: Sequence[Message] = graph.get("node", ())
    return nodes


def _inner(node: Message | None) -> list[Message]:
    """Return the graphs inside of a node."""
    return [one["g"] for one in (node or {}).get("attribute", ()) if "g" in one]


def _check_nodes(graph: Message, loop: Message | None) -> None:
    for node in _nodes(graph):
        if (domain := node.get("domain", b"")) not in _STANDARD:
            raise RefusedError(f"an operator of {domain!r:.60}")
        if node is loop:
            continue
        if (op := node.get("op_type", b"")) not in OPERATORS:
            raise RefusedError(f"the operator {op!r:.60}")
        if _inner(node):
            raise RefusedError("a graph inside of a node")
        for one in node.get("attribute", ()):  # ONNX Runtime believes these
            if one.get("name") == b"batch_dims" and one.get("i", 0) > MOST_BATCH_DIMS:
                raise RefusedError("a negative or large batch_dims")
            if one.get("name") == b"num_outputs" and one.get("i") != len(node.get("output", ())):
                raise RefusedError("a num_outputs that is not the number of outputs")
            if one.get("name") == b"equation" and not _EQUATION.fullmatch(one.get("s", b"")):
                raise RefusedError("an equation that is none")
        if op == b"InstanceNormalization" and not _is_float32(node.get("input", ())[1:2], graph):
            raise RefusedError("an InstanceNormalization that is not seen to be of float32")


def _is_float32(names: Sequence[bytes], graph: Message) -> bool:
    """Say whether a name is a weight of float32, or what a Cast makes such.

    In float16 ONNX Runtime's InstanceNormalization ends the process where a side has no pixel; all
    its inputs are of one type.
    """
    kinds = [w.get("data_type") for w in graph.get("initializer", ()) if [w.get("name")] == names]
    for node in _nodes(graph):
        if node.get("output", ()) == names and node.get("op_type") == b"Cast":
            kinds += [one.get("i") for one in node.get("attribute", ()) if one.get("name") == b"to"]
    return bool(kinds) and set(kinds) == {1}


def _tensors(graph: Message) -> Iterator[Message]:
    """Yield the constants of a graph, also those of its nodes."""
    yield from graph.get("initializer", ())
    for node in _nodes(graph):
        for attribute in node.get("attribute", ()):
            if "t" in attribute:
                yield attribute["t"]


def _check_tensor(tensor: Message, path: Path, files: Collection[str] | None) -> None:
    """Refuse weights that lie in a file that is not the bundle's."""
    pairs = tensor.get("external_data", ())
    if not pairs and not tensor.get("data_location"):
        return
    entries = {pair.get("key"): pair.get("value", b"") for pair in pairs}
    numbers = [entries.get(key, b"0") for key in (b"offset", b"length")]
    if (
        tensor.get("data_location") != _EXTERNAL
        or len(entries) != len(pairs)
        or not entries.keys() <= {b"location", b"offset", b"length", b"checksum"}
        or not all(number.isdigit() and len(number) < 19 for number in numbers)
    ):
        raise RefusedError("a description of external data that is not ONNX's")
    place = entries.get(b"location", b"")
    if not _FILE.fullmatch(place) or not _is_allowed(place.decode(), path, files):
        raise RefusedError(f"weights in {place!r:.60}, which is no file of the bundle")


def _is_allowed(place: str, path: Path, files: Collection[str] | None) -> bool:
    if files is not None:
        return place in files
    folder = os.path.realpath(path.parent)
    return Path(os.path.realpath(path.parent / place)).is_relative_to(folder)
