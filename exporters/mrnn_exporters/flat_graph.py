"""The graph of a whole captioner: scaling, encoder, a Loop over the cell, and the words as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from mrnn_exporters import search_graph
from mrnn_exporters.onnx_text import nodes_of, rename
from mrnn_exporters.resize_graph import resize_graph
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import Bundle, DecodeOptions
    from mrnn_runtime.bundle.tensors import TensorSpec

    _Shape: TypeAlias = Sequence[int | str | None]

# What every operator of the search means what it does here from; weights of a bundle ask for 17.
_LEAST_OPSET = 16


@dataclass(frozen=True, slots=True)
class _Part:
    """The nodes of a bundle's graph that its wanted outputs need, under new names.

    Attributes:
        constant: those that depend on no input.
        varying: the others.
        weights: its initialisers.
    """

    constant: list[NodeProto]
    varying: list[NodeProto]
    weights: list[TensorProto]


def whole_graph(
    bundle: Bundle,
    options: DecodeOptions,
    texts: Sequence[str],
    *,
    confidence: bool = False,
    resize_inside: bool = False,
) -> onnx.ModelProto:
    """Join a bundle's graphs and the search.

    Args:
        bundle: the model.
        options: how to search.
        texts: what each token is as text: V at the start of a caption, then V behind a word.
        confidence: whether captions get one; the bundle must be calibrated.
        resize_inside: whether images of any size go in, and are scaled by the graph.

    Raises:
        UsageError: the graphs are of operator sets that do not go together.
    """
    encoder, cell = (onnx.load(bundle.folder / g.file) for g in (bundle.encoder, bundle.cell))
    opsets = {o.version for g in (encoder, cell) for o in g.opset_import if not o.domain}
    if len(opsets) != 1 or min(opsets) < _LEAST_OPSET:
        raise UsageError(
            f"the graphs of {bundle.name} are of the ONNX operator sets {sorted(opsets)}",
            hint=f"export both with the same one, at least {_LEAST_OPSET}",
        )
    height, width, channels = bundle.encoder.inputs[0].shape[1:]
    constants = search_graph.constants(bundle, options)
    constants["texts"] = np.array(texts, np.object_)
    nodes: list[NodeProto] = []
    taken = "image"
    outputs: Sequence[tuple[str, int, str]] = search_graph.OUTPUTS
    if resize_inside:
        taken, height, width = "scaled_image", "height", "width"
        nodes, numbers = resize_graph(bundle.preprocess, "image", taken)
        constants |= numbers

    starts = [state.init for state in bundle.state if state.init != "zeros"]
    wanted = [*bundle.image_inputs, *starts]
    end = nodes_of(search_graph.END)
    if confidence and bundle.calibration:
        wanted.append("reference_feature")
        (feature,) = (t for t in bundle.encoder.outputs if t.name == "reference_feature")
        constants |= search_graph.confidence_constants(bundle.calibration, int(feature.shape[1]))
        score = nodes_of(search_graph.CONFIDENCE)
        rename(score, {"reference_feature": "encoded/reference_feature"})
        end += score
        outputs = (*outputs, search_graph.CONFIDENCE_OUTPUT)
    encoded = {name: f"encoded/{name}" for name in wanted}
    front = _part(encoder.graph, "encoder", list(encoded), {"image": taken, **encoded})

    names = {
        "token": "token",
        "log_probs": "log_probs",
        **{name: f"of_row/{name}" for name in bundle.image_inputs},
        **{spec.input: f"state/{spec.input}" for spec in bundle.state},
        **{spec.output: f"after/{spec.input}" for spec in bundle.state},
    }
    step = _part(cell.graph, "cell", ["log_probs", *(s.output for s in bundle.state)], names)
    sizes = {"k": options.beam_size, "m": options.n_best, "t": options.max_length}
    first, numbers = _first_state(bundle)
    loop = _loop(bundle, step.varying, sizes)
    graph = helper.make_graph(
        [
            *(*front.constant, *step.constant),
            *(*nodes, *front.varying),
            *(*nodes_of(search_graph.SETUP), *first, loop, *end),
        ],
        "captioner",
        [_value("image", TensorProto.UINT8, ["n", height, width, channels])],
        [
            _value(name, kind, [sizes.get(letter, letter) for letter in shape])
            for name, kind, shape in outputs
        ],
    )
    used = {name for node in (*graph.node, *loop.attribute[0].g.node) for name in node.input}
    graph.initializer.extend([*front.weights, *step.weights])
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in (constants | numbers).items()
        if name in used
    )
    opset = helper.make_opsetid("", opsets.pop())
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=max(encoder.ir_version, cell.ir_version)
    )


def _first_state(bundle: Bundle) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """Return the nodes that make each state's first value, and the constants that they need."""
    specs = {tensor.name: tensor for tensor in bundle.cell.inputs}
    nodes: list[NodeProto] = []
    constants: dict[str, NDArray[np.generic]] = {}
    for state in bundle.state:
        name = state.input
        if state.init != "zeros":
            nodes.append(helper.make_node("Identity", [f"encoded/{state.init}"], [f"first/{name}"]))
            continue
        constants[f"shape/{name}"] = np.array(specs[name].shape[1:], np.int64)
        constants[f"zero/{name}"] = np.zeros(1, specs[name].dtype)
        rows = f"rows/{name}"
        nodes += [
            helper.make_node("Concat", ["n", f"shape/{name}"], [rows], axis=0),
            helper.make_node("Expand", [f"zero/{name}", rows], [f"first/{name}"]),
        ]
    return nodes, constants


def _loop(bundle: Bundle, cell: list[NodeProto], sizes: Mapping[str, int]) -> NodeProto:
    """Return the loop: the search before and behind the cell, and the states of its rows."""
    specs = {tensor.name: tensor for tensor in bundle.cell.inputs}
    states = [spec.input for spec in bundle.state]
    body = [
        *nodes_of(search_graph.BEFORE),
        *(
            helper.make_node("Gather", [f"encoded/{name}", "owner"], [f"of_row/{name}"])
            for name in bundle.image_inputs
        ),
        *cell,
        *nodes_of(search_graph.AFTER),
        *(
            helper.make_node("Gather", [f"after/{name}", "state_row"], [f"next_state/{name}"])
            for name in states
        ),
    ]
    carried: list[tuple[str, int, _Shape]] = [
        *(
            (name, kind, [sizes.get(letter) for letter in shape])
            for name, kind, shape, _ in search_graph.CARRIED
        ),
        *((f"state/{name}", _kind(specs[name]), [None, *specs[name].shape[1:]]) for name in states),
    ]
    starts = [start for *_, start in search_graph.CARRIED]
    return helper.make_node(
        "Loop",
        ["steps", "true", *starts, *(f"first/{name}" for name in states)],
        [name if name.startswith(("pool", "cut")) else f"last/{name}" for name, *_ in carried],
        body=_body(body, carried),
    )


def _part(graph: GraphProto, prefix: str, wanted: Sequence[str], names: Mapping[str, str]) -> _Part:
    """Take out what the ``wanted`` outputs need; ``names`` are new ones, others get the prefix."""
    needed, kept = set(wanted), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    moving = {value.name for value in graph.input} - {tensor.name for tensor in weights}
    constant, varying = [], []
    for node in reversed(kept):
        if moving.intersection(node.input):
            moving.update(node.output)
            varying.append(node)
        else:
            constant.append(node)
    new = {name: names.get(name, f"{prefix}/{name}") for name in needed if name}
    for node in kept:
        new.update({n: names.get(n, f"{prefix}/{n}") for n in node.output if n})
    rename(kept, new)
    for tensor in weights:
        tensor.name = new[tensor.name]
    return _Part(constant, varying, weights)


def _body(nodes: list[NodeProto], carried: Sequence[tuple[str, int, _Shape]]) -> GraphProto:
    """Return the loop's body; a name inside of it must not be one outside of it too."""
    names = {"step", "going", *(name for name, *_ in carried)}
    names.update(name for node in nodes for name in node.output)
    own = {name: f"step/{name}" for name in names}
    rename(nodes, own)
    inputs = [
        _value("step/step", TensorProto.INT64, []),
        _value("step/going", TensorProto.BOOL, []),
    ]
    inputs += [_value(own[name], kind, shape) for name, kind, shape in carried]
    outputs = [_value("step/next_going", TensorProto.BOOL, [])]
    outputs += [_value(own[f"next_{name}"], kind, shape) for name, kind, shape in carried]
    return helper.make_graph(nodes, "step", inputs, outputs)


def _value(name: str, kind: int, shape: _Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _kind(tensor: TensorSpec) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
