"""From torch modules to the ONNX graphs of a bundle.

Large weights are stored as float16 behind a Cast that ONNX Runtime folds when it loads the graph:
half the file, the same speed. They are rounded in torch first (:func:`round_weights`), so what is
compared afterwards is the same net.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mrnn_exporters.nets import Cell

OPSET = 17
# Smaller tensors (biases, norms) stay float32: they take little room and lose most by rounding.
LARGE = 4096


class EncoderGraph(nn.Module):
    """A backbone and what a cell makes of its feature, in one graph."""

    def __init__(self, backbone: nn.Module, cell: Cell, *, reference: str = "refined") -> None:
        """Join the two.

        Args:
            backbone: the CNN.
            cell: what its feature goes into.
            reference: what reference_feature is: ``refined``, ``Cell.reference``, or ``cnn``, the
                CNN's feature.
        """
        super().__init__()
        self.backbone = backbone
        self.cell = cell
        self.refined = reference == "refined"

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return each image input, float32 [n, ...], and reference_feature float32 [n, d]."""
        features = self.backbone(image)
        reference = self.cell.reference(features) if self.refined else features
        return (*self.cell.encode(features), reference)


def encoded_names(cell: Cell) -> tuple[str, ...]:
    """Names of what ``cell.encode`` returns: image inputs, and states that start from the image."""
    starts = (tensor.init for tensor in cell.state if tensor.init != "zeros")
    return (*cell.image_inputs, *starts)


def round_weights(module: nn.Module) -> None:
    """Round the large weights of a module to what float16 can hold, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() >= LARGE:
                parameter.copy_(parameter.half().float())


def export_encoder(graph: EncoderGraph, path: Path, *, height: int, width: int) -> None:
    """Write encoder.onnx, one file, weights inside."""
    names = [*encoded_names(graph.cell), "reference_feature"]
    image = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    axes = {name: {0: "n"} for name in ("image", *names)}
    model = _export(graph, (image,), path, ["image"], names, axes)
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def export_cell(
    cell: Cell, step: nn.Module, images: Sequence[Tensor], path: Path, *, vocabulary_size: int
) -> None:
    """Write cell.onnx and cell.onnx.data.

    Args:
        cell: names the image inputs and the state.
        step: ``cell.step()``, rounded.
        images: an example of each image input, float32 [2, ...].
        path: of cell.onnx.
        vocabulary_size: V.
    """
    token = torch.zeros(2, dtype=torch.int64)
    state = tuple(torch.zeros(2, tensor.size) for tensor in cell.state)
    inputs = ["token", *cell.image_inputs, *(tensor.name for tensor in cell.state)]
    outputs = ["logits", *(f"next_{tensor.name}" for tensor in cell.state)]
    axes = {name: {0: "r"} for name in (*inputs, *outputs)}
    model = _export(step, (token, *images, *state), path, inputs, outputs, axes)
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("LogSoftmax", ["logits"], ["log_probs"], axis=-1),
            helper.make_node("TopK", ["log_probs", "k"], ["best_values", "best_ids"], axis=-1),
        ]
    )
    graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    states = list(graph.output)[1:]
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["r", vocabulary_size]),
            helper.make_tensor_value_info("best_values", TensorProto.FLOAT, ["r", "k"]),
            helper.make_tensor_value_info("best_ids", TensorProto.INT64, ["r", "k"]),
            *states,
        ]
    )
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    save_beside(model, path)


def save_beside(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, its large weights in a file beside it, which sessions map into memory."""
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    if data.exists():  # else no weight was large
        data.chmod(path.stat().st_mode)


def export_readout(
    cell: Cell, readout: nn.Module, images: Sequence[Tensor], path: Path, *, cell_path: Path
) -> None:
    """Write readout.onnx; the weights that it shares with cell.onnx stay in the cell's data file.

    Args:
        cell: names the image inputs and the state.
        readout: ``cell.readout()``, rounded.
        images: an example of each image input, float32 [2, ...].
        path: of readout.onnx.
        cell_path: of cell.onnx, in the same folder.
    """
    token = torch.zeros(3, dtype=torch.int64)
    state = tuple(torch.zeros(3, tensor.size) for tensor in cell.state)
    inputs = ["token", *(tensor.name for tensor in cell.state), *cell.image_inputs]
    axes = {name: {0: "n" if name in cell.image_inputs else "t"} for name in inputs}
    example = (token, *state, *images)
    model = _export(
        readout, example, path, inputs, ["logits"], {**axes, "logits": {0: "t", 1: "n"}}
    )
    graph = model.graph
    graph.node.append(helper.make_node("LogSoftmax", ["logits"], ["log_probs"], axis=-1))
    graph.output[0].name = "log_probs"
    used = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.input if value.name in used]  # the state that it reads
    del graph.input[:]
    graph.input.extend(kept)
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    share_weights(model, cell_path)
    onnx.save(model, path)


def share_weights(model: onnx.ModelProto, other: Path) -> None:
    """Let a model's weights be those of a saved one, in its data file, where they are equal."""
    there = {
        tensor.raw_data: tensor for tensor in onnx.load(other).graph.initializer if tensor.raw_data
    }
    places = {t.name: t for t in onnx.load(other, load_external_data=False).graph.initializer}
    for tensor in model.graph.initializer:
        twin = there.get(tensor.raw_data)
        if twin is not None and (twin.dims, twin.data_type) == (tensor.dims, tensor.data_type):
            place = places[twin.name]
            if place.data_location == TensorProto.EXTERNAL:
                name = tensor.name
                tensor.CopyFrom(place)
                tensor.name = name


def describe(path: Path) -> dict[str, list[dict[str, object]]]:
    """Return name, dtype and shape of a graph's inputs and outputs, as bundle.json lists them."""
    graph = onnx.load(path, load_external_data=False).graph

    def tensors(values: Sequence[onnx.ValueInfoProto]) -> list[dict[str, object]]:
        return [
            {
                "name": value.name,
                "dtype": str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
                "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            }
            for value in values
        ]

    return {"inputs": tensors(graph.input), "outputs": tensors(graph.output)}


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """Run torch's exporter; ``axes`` names the free axes of each tensor."""
    module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own retirement
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
            # Norms stay norms, with weights as torch has them; ONNX Runtime fuses them when it
            # loads.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        output = module(*example)
    results = (output,) if isinstance(output, Tensor) else output
    model = onnx.load(path)
    # Tracing loses the width of some outputs; torch knows them all.
    for value, result in zip(model.graph.output, results, strict=True):
        dims = value.type.tensor_type.shape.dim
        for axis, (dim, size) in enumerate(zip(dims, result.shape, strict=True)):
            if axis not in axes[value.name]:
                dim.dim_value = size
    return model


def store_half(model: onnx.ModelProto) -> None:
    """Store large float32 weights as float16 and a Cast."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LARGE:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
