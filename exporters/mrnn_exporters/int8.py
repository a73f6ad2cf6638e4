"""Graphs whose heavy products are of 8-bit integers.

Weights have one scale a channel, activations one a tensor, fixed here: a scale taken from the batch
at hand would let an image change its neighbour's caption. Weights have 7 bits: a CPU without VNNI
adds two products in 16 bits, where those of 8 would not fit. What rounding them does to the mean of
a channel is taken off its bias, which brings more than an eighth bit.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mrnn_exporters.graphs import LARGE, store_half
from mrnn_runtime.build import load_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_LARGEST_WEIGHT = 64
_LARGEST_ACTIVATION = 127
_BETWEEN = ("Add", "Clip", "MaxPool", "Relu")  # convolutions, without leaving the integers
_RESHAPING = ("Flatten", "Reshape")


def quantize_convolutions(path: Path, images: NDArray[np.uint8]) -> int:
    """Make the convolutions of an encoder int8, and what lies between them, in place.

    Args:
        path: of encoder.onnx; without a convolution it is left as it is.
        images: uint8 [n, h, w, 3], photos that show how large activations get.

    Returns:
        The number of convolutions.
    """
    model = _folded(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    convolutions = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and constants.issuperset(node.input[1:])
    ]
    if convolutions:
        _round(model, convolutions, images)
        model = _quantized(model, convolutions, images)
        store_bytes(model)
        onnx.save(model, path)
    return len(convolutions)


def quantize_vocabulary(model: ModelProto) -> bool:
    """Make the product with the vocabulary int8, where its input is a tanh: within -1 .. 1.

    Returns:
        Whether there is such a product; else the model is left as it is.
    """
    values = _constants(model)
    product = _vocabulary_product(model, values)
    if product is None:
        return False
    weights = values[product.input[1]].astype(np.float32)
    if _attribute(product, "transB", 0):
        weights = weights.T
    steps = _steps(weights, axis=0)
    arrays = {
        "vocabulary.step": np.array(1 / _LARGEST_ACTIVATION, np.float32),
        "vocabulary.zero": np.array(128, np.uint8),
        "vocabulary.weights": np.ascontiguousarray(np.rint(weights / steps).astype(np.int8)),
        "vocabulary.steps": (steps[0] / _LARGEST_ACTIVATION).astype(np.float32),
    }
    bias = product.input[2:]
    scaled = "vocabulary.scaled" if bias else product.output[0]
    make = helper.make_node
    step, zero, whole, rescale = arrays
    nodes = [
        make("QuantizeLinear", [product.input[0], step, zero], ["vocabulary.input"]),
        make("MatMulInteger", ["vocabulary.input", whole, zero], ["vocabulary.sums"]),
        make("Cast", ["vocabulary.sums"], ["vocabulary.numbers"], to=TensorProto.FLOAT),
        make("Mul", ["vocabulary.numbers", rescale], [scaled]),
    ]
    if bias:
        nodes.append(make("Add", [scaled, bias[0]], [product.output[0]]))
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    all_nodes = list(graph.node)
    place = all_nodes.index(product)
    all_nodes[place : place + 1] = nodes
    _replace_nodes(model, all_nodes)
    onnx.checker.check_model(model, full_check=True)
    return True


def quantize_tables(model: ModelProto) -> int:
    """Keep large tables of words as int8, one scale a column; a looked-up row is float32 again.

    Returns:
        The number of such tables; without one the model is left as it is.
    """
    values = _constants(model)
    nodes: list[NodeProto] = []
    count = 0
    for node in model.graph.node:
        table = values.get(node.input[0]) if node.op_type == "Gather" else None
        if (
            table is None
            or table.dtype.kind != "f"
            or table.size < LARGE
            or node.input[1] != "token"
        ):
            nodes.append(node)
            continue
        numbers = table.astype(np.float32)
        steps = _steps(numbers, axis=0, largest=127)
        arrays = {
            f"table{count}.whole": np.rint(numbers / steps).astype(np.int8),
            f"table{count}.steps": steps[0].astype(np.float32),
        }
        whole, scales = arrays
        row = f"table{count}.row"
        nodes += [
            helper.make_node("Gather", [whole, "token"], [row]),
            helper.make_node("DequantizeLinear", [row, scales], list(node.output), axis=1),
        ]
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
        count += 1
    if count:
        _replace_nodes(model, nodes)
        onnx.checker.check_model(model, full_check=True)
    return count


def store_bytes(model: ModelProto) -> int:
    """Keep large matrices as int8, one scale a column, and multiply in float32 all the same.

    A Cast makes numbers of them when the graph is loaded; the scales go onto the product.

    Returns:
        The number of such matrices; without one the model is left as it is.
    """
    values = _constants(model)
    nodes: list[NodeProto] = []
    stored: dict[str, tuple[str, str]] = {}
    for node in model.graph.node:
        matrix = values.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is None or matrix.dtype.kind != "f" or matrix.size < LARGE:
            nodes.append(node)
            continue
        name = node.input[1]
        if name not in stored:
            numbers = matrix.astype(np.float32)
            steps = _steps(numbers, axis=0, largest=127)
            whole, scales = (f"matrix{len(stored)}.{part}" for part in ("whole", "steps"))
            arrays = {whole: np.rint(numbers / steps).astype(np.int8), scales: steps[0]}
            model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
            stored[name] = f"matrix{len(stored)}", scales
            cast = helper.make_node("Cast", [whole], [stored[name][0]], to=TensorProto.FLOAT)
            nodes.insert(0, cast)
        product = f"{node.output[0]}.unscaled"
        nodes += [
            helper.make_node("MatMul", [node.input[0], stored[name][0]], [product]),
            helper.make_node("Mul", [product, stored[name][1]], list(node.output)),
        ]
    if stored:
        _replace_nodes(model, nodes)
        onnx.checker.check_model(model, full_check=True)
    return len(stored)


def _folded(path: Path) -> ModelProto:
    """Load a graph with its constants computed and its norms in the convolutions' weights."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "folded.onnx"))
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    # ONNX Runtime imports all domains that it knows; the graph is plain ONNX.
    plain = [domain for domain in model.opset_import if not domain.domain]
    del model.opset_import[:]
    model.opset_import.extend(plain)
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node {place}"
    return model


def _round(model: ModelProto, convolutions: Sequence[NodeProto], images: NDArray[np.uint8]) -> None:
    """Round the weights of convolutions, in place, and correct their biases.

    What is left of a channel's error has a mean of about 0 over photos and places, and the encoder
    takes such a mean at its end.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    means = _means(model, {node.input[0] for node in convolutions}, images)
    for node in convolutions:
        weights = numpy_helper.to_array(tensors[node.input[1]])
        steps = _steps(weights, axis=(1, 2, 3))
        rounded = np.rint(weights / steps) * steps
        _set(tensors[node.input[1]], rounded)
        if len(node.input) == 3:
            lost = (weights - rounded).sum(axis=(2, 3))  # [out, in of its group]
            groups = _attribute(node, "group", 1)
            mean = means[node.input[0]].reshape(groups, -1, 1)
            shift = lost.reshape(groups, -1, lost.shape[1]) @ mean
            bias = numpy_helper.to_array(tensors[node.input[2]])
            _set(tensors[node.input[2]], bias + shift.reshape(-1))


def _means(
    model: ModelProto, names: Iterable[str], images: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each channel of tensors [n, c, h, w] over images: float64 [c]."""
    observed = type(model)()
    observed.CopyFrom(model)
    wanted = sorted(names)
    observed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted
    )
    ort = load_onnxruntime()
    session = ort.InferenceSession(observed.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    sums = dict.fromkeys(wanted, np.zeros(()))
    for one in images:
        arrays = session.run(wanted, {image.name: one[np.newaxis]})
        for name, array in zip(wanted, arrays, strict=True):
            sums[name] = sums[name] + array.mean(axis=(0, 2, 3), dtype=np.float64)
    return {name: total / len(images) for name, total in sums.items()}


def _quantized(
    model: ModelProto, convolutions: Sequence[NodeProto], images: NDArray[np.uint8]
) -> ModelProto:
    """Put quantisation around the convolutions and what lies between them."""
    from onnxruntime import quantization

    (image,) = (value.name for value in model.graph.input)
    feeds = iter([{image: one[np.newaxis]} for one in images])

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, NDArray[np.uint8]] | None:
            return next(feeds, None)

    # Says that the graph was folded, which the quantiser would recommend in a warning otherwise.
    mark = model.metadata_props.add()
    mark.key, mark.value = "onnx.quant.pre_process", "onnxruntime.quant"
    with TemporaryDirectory() as folder:
        path = Path(folder, "quantized.onnx")
        quantization.quantize_static(
            model,
            path,
            Photos(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_quantize=[node.name for node in _integer_nodes(model, convolutions)],
        )
        quantized = onnx.load(path)
    del quantized.metadata_props[:]
    store_half(quantized)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _integer_nodes(model: ModelProto, convolutions: Sequence[NodeProto]) -> list[NodeProto]:
    """Return the convolutions, what lies between them, and what directly follows one."""
    makers = {output: node for node in model.graph.node for output in node.output}
    made = {node.output[0] for node in convolutions}
    before: set[str] = set()
    waiting = list(convolutions)
    while waiting:
        node = waiting.pop()
        if node.name not in before:
            before.add(node.name)
            waiting += [makers[name] for name in node.input if name in makers]
    names = {node.name for node in convolutions}
    return [
        node
        for node in model.graph.node
        if node.name in names
        or (node.op_type in _BETWEEN and (node.name in before or node.input[0] in made))
    ]


def _vocabulary_product(
    model: ModelProto, values: Mapping[str, NDArray[np.generic]]
) -> NodeProto | None:
    """Return the product that the log-probabilities come from, if a tanh is its input."""
    makers = {output: node for node in model.graph.node for output in node.output}

    def behind(name: str, passed: Sequence[str]) -> NodeProto | None:
        """Return what made a tensor, seen through nodes of some kinds that change little."""
        node = makers.get(name)
        while node is not None and node.op_type in passed:
            inputs = node.input[:1] if node.op_type in _RESHAPING else node.input
            varying = [one for one in inputs if one not in values]
            node = makers.get(varying[0]) if len(varying) == 1 else None
        return node

    softmax = next(node for node in model.graph.node if node.op_type == "LogSoftmax")
    product = behind(softmax.input[0], ("Add", *_RESHAPING))
    if product is None or product.op_type not in ("Gemm", "MatMul"):
        return None
    plain = (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    if any(_attribute(product, name, value) != value for name, value in plain):
        return None
    source = behind(product.input[0], _RESHAPING)
    tanh = source is not None and source.op_type == "Tanh"
    return product if tanh and product.input[1] in values else None


def _constants(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return what is known of a graph's tensors: its weights, also behind a Cast."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in values:
            kind = helper.tensor_dtype_to_np_dtype(_attribute(node, "to", 0))
            values[node.output[0]] = values[node.input[0]].astype(kind)
    return values


def _steps(
    weights: NDArray[np.floating[Any]],
    axis: int | tuple[int, ...],
    *,
    largest: int = _LARGEST_WEIGHT,
) -> NDArray[np.floating[Any]]:
    """Return what the integer 1 stands for, a channel, so that no weight is above ``largest``."""
    most: NDArray[np.floating[Any]] = np.abs(weights).max(axis=axis, keepdims=True)
    steps = most / largest
    return np.where(steps == 0, np.ones_like(steps), steps)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _set(tensor: TensorProto, values: NDArray[np.floating[Any]]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _replace_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Give a graph other nodes, and drop the nodes and the weights that are not used any more."""
    graph = model.graph
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(weights)
