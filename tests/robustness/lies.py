"""Bundles with one lie each: a graph that gives something else than it declares.

ONNX Runtime holds an output neither to the shape that the graph declares nor to finite numbers.
"""

import onnx
from onnx import TensorProto, helper

GRAPHS = ("encoder.onnx", "cell.onnx", "readout.onnx")


def _keep(flags, axis):
    """Keep some rows or columns; what is not flagged falls away, which no shape inference sees."""

    def nodes(true, false):
        constant = helper.make_tensor("flags", TensorProto.BOOL, [len(flags)], flags)
        return [helper.make_node("Compress", [true, "flags"], [false], axis=axis)], [constant]

    return nodes


def _append(flags, axis):
    def nodes(true, false):
        kept, constants = _keep(flags, axis)(true, "kept")
        joined = helper.make_node("Concat", [true, "kept"], [false], axis=axis)
        return [*kept, joined], constants

    return nodes


def _compute(operator, number):
    def nodes(true, false, kind=TensorProto.FLOAT):
        constant = helper.make_tensor("number", kind, [], [number])
        return [helper.make_node(operator, [true, "number"], [false])], [constant]

    return nodes


def _whole(operator, number):
    return lambda true, false: _compute(operator, number)(true, false, TensorProto.INT64)


def _flat(true, false):
    """Reshape to one dimension, by a shape whose length is known at run time only."""
    shape = helper.make_tensor("sizes", TensorProto.INT64, [2], [-1, 1])
    flags = helper.make_tensor("flags", TensorProto.BOOL, [2], [True, False])
    nodes = [
        helper.make_node("Compress", ["sizes", "flags"], ["size"], axis=0),
        helper.make_node("Reshape", [true, "size"], [false]),
    ]
    return nodes, [shape, flags]


LIES = {
    "no rows": _keep([False], 0),
    "one row less": _keep([False] + [True] * 999, 0),
    "a row more": _append([True], 0),
    "narrower": _keep([True, True], -1),
    "wider": _append([True], -1),
    "flat": _flat,
    "NaN": _compute("Mul", float("nan")),
    "infinite": _compute("Add", float("inf")),
    "minus infinite": _compute("Sub", float("inf")),
    "above 0": _compute("Add", 1e3),
}
LIES_OF_IDS = {
    **{name: LIES[name] for name in ("no rows", "a row more", "narrower", "wider", "flat")},
    "too high": _whole("Add", 12),
    "negative": _whole("Sub", 13),
}
# A large number is no lie elsewhere.
SCORES = ("log_probs", "best_values")


def outputs(folder):
    """Yield the graphs that a bundle has and their outputs, with what each can lie about."""
    for graph in GRAPHS:
        if (folder / graph).exists():
            for value in onnx.load(folder / graph, load_external_data=False).graph.output:
                lies = LIES_OF_IDS if value.name == "best_ids" else LIES
                for lie in lies:
                    if lie != "above 0" or value.name in SCORES:
                        yield graph, value.name, lie


def tell(folder, graph, output, lie):
    """Let a graph of the bundle in a folder lie about an output; its checksums fit no more."""
    model = onnx.load(folder / graph, load_external_data=False)
    true = f"true {output}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [true if name == output else name for name in names]
    nodes, constants = (LIES_OF_IDS if output == "best_ids" else LIES)[lie](true, output)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    (folder / graph).write_bytes(model.SerializeToString())
