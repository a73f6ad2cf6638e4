"""Float weights out of a quantised .tflite file, the form in which Lite3's can be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_CONV, _DEPTHWISE = 3, 4  # operators of the schema that have a kernel and a bias


def load_convolutions(net: nn.Module, file: Path) -> None:
    """Give an EfficientNet-Lite the convolutions of a tflite graph, in the graph's order.

    The graph's batch norms are folded into its convolutions: those of ``net`` become a bias each.

    Raises:
        ValueError: the graph's convolutions are not those of the net.
    """
    convolutions = list(_convolutions(file))
    layers = list(_layers(net))
    shapes = [tuple(conv.weight.shape) for conv, _ in layers]
    if [tuple(weight.shape) for weight, _ in convolutions] != shapes:
        raise ValueError("the convolutions are those of another net")
    for (conv, norm), (weight, bias) in zip(layers, convolutions, strict=True):
        conv.weight.data = weight
        norm.weight.data.fill_(1.0)
        norm.bias.data = bias
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)


def _layers(net: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - attributes of a foreign net
    """Give each convolution with the batch norm behind it, in the order of use."""
    yield net._conv_stem, net._bn0
    for block in net._blocks:
        if hasattr(block, "_expand_conv"):
            yield block._expand_conv, block._bn0
        yield block._depthwise_conv, block._bn1
        yield block._project_conv, block._bn2
    yield net._conv_head, net._bn1


def _convolutions(file: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Give kernel, float32 as torch lays it out, and bias of each convolution."""
    import tflite

    model = tflite.Model.GetRootAsModel(file.read_bytes(), 0)
    graph = model.Subgraphs(0)
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind not in (_CONV, _DEPTHWISE):
            continue
        kernel = _dequantised(model, graph.Tensors(operator.Inputs(1)), np.int8)
        bias = _dequantised(model, graph.Tensors(operator.Inputs(2)), np.int32)
        # A kernel is [out, h, w, in], of a depthwise convolution [1, h, w, channels].
        order = (0, 3, 1, 2) if kind == _CONV else (3, 0, 1, 2)
        yield torch.from_numpy(kernel.transpose(order).copy()), torch.from_numpy(bias)


def _dequantised(model: Any, tensor: Any, dtype: type[np.integer]) -> NDArray[np.float32]:  # noqa: ANN401
    values = np.frombuffer(model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes(), dtype)
    values = values.reshape(tensor.ShapeAsNumpy()).astype(np.float32)
    how = tensor.Quantization()
    shape = [1] * values.ndim
    shape[how.QuantizedDimension()] = -1
    zero = np.asarray(how.ZeroPointAsNumpy(), np.float32).reshape(shape)
    scale = np.asarray(how.ScaleAsNumpy(), np.float32).reshape(shape)
    result: NDArray[np.float32] = (values - zero) * scale
    return result
