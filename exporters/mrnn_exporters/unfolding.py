"""From the graphs of a bundle back to a net that can be trained.

The exported step holds one table for all that depends on the word alone
(:class:`mrnn_exporters.nets.FoldedStep`), instead of the two layers of the embedding. But for its
mean that table has the rank e of the embedding, so its singular values make a product of it again,
T = 1 c + E A, and each net with such E and A is the same function. An int8 table is so but for
rounding.

Letters in shapes: V vocabulary, e embedding, w word embedding II, g gates, m multimodal, q
recurrent, d image feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from mrnn_exporters.nets import CaptionNet
from mrnn_exporters.recurrences import GatedRecurrence, PlainRecurrence
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_exporters.nets import Cell
    from mrnn_runtime import Bundle

    Array = NDArray[np.floating[Any]]


def unfold(bundle: Bundle, net: Cell) -> None:
    """Give a net of the bundle's cell and sizes weights that make it the bundle's function.

    Raises:
        UsageError: the net is none whose step is folded as the m-RNN's and the GRU's are.
    """
    if not (
        isinstance(net, CaptionNet)
        and isinstance(net.recurrence, (PlainRecurrence, GatedRecurrence))
        and net.image == {"multimodal"}
        and (net.word_input, net.tied, net.shared) == (2, False, False)
    ):
        raise UsageError(
            f"{bundle.name} cannot be trained further: its cell is neither m-rnn nor gru",
            hint="start from a run of mrnn train",
        )
    cell = _Graph(bundle.folder / bundle.cell.file)
    encoder = _Graph(bundle.folder / bundle.encoder.file)
    (state,) = bundle.state
    recurrent, recurrent_bias = cell.product_of(state.input)
    from_recurrent, _ = cell.product_of(state.output)
    output, output_bias = cell.vocabulary()
    shape = (net.config.feature_size, net.config.multimodal)
    embedding, matrix, mean = _factors(cell.table(), net.config.embedding)
    gates = matrix.shape[1] - net.config.multimodal
    weights: dict[str, Array] = {"embedding.weight": embedding}
    if isinstance(net.recurrence, PlainRecurrence):  # its gates are w(t) itself
        word, word_bias = matrix[:, :gates].T, mean[:gates]
        weights["recurrence.weight"] = recurrent.T
    else:
        word = np.eye(net.config.word, net.config.embedding, dtype=np.float32)
        word_bias = np.zeros(net.config.word, np.float32)
        back = np.linalg.pinv(word)
        weights |= {
            "recurrence.input.weight": matrix[:, :gates].T @ back,
            "recurrence.input.bias": mean[:gates],
            "recurrence.hidden.weight": recurrent.T,
            "recurrence.hidden.bias": recurrent_bias,
        }
    from_word = matrix[:, gates:].T @ np.linalg.pinv(word)
    weights |= {
        "word.weight": word,
        "word.bias": word_bias,
        "from_word.weight": 1.5 * from_word,
        "from_word.bias": 1.5 * (mean[gates:] - from_word @ word_bias),
        "from_recurrent.weight": 1.5 * from_recurrent.T,
        "from_image.weight": encoder.matrix(shape).T,
        "output.weight": output.T / 1.7159,
        "output.bias": output_bias,
    }
    net.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})


class _Graph:
    """The constants of an ONNX file, float32, and the products that they are in."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self.nodes = list(model.graph.node)
        self.values: dict[str, Array] = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        for node in self.nodes:
            if node.op_type == "Cast" and node.input[0] in self.values:
                self.values[node.output[0]] = self.values[node.input[0]].astype(np.float32)

    def product_of(self, name: str) -> tuple[Array, Array]:
        """Return W [in, out] and b [out] of the product W x + b of a tensor x."""
        for node in self.nodes:
            if node.op_type in ("Gemm", "MatMul") and node.input[0] == name:
                return self._product(node)
        raise UsageError(f"the graph has no product of {name}", hint="export the bundle again")

    def vocabulary(self) -> tuple[Array, Array]:
        """Return W [m, V] and b [V] of the product with the vocabulary, in float32 or int8."""
        if "vocabulary.weights" in self.values:
            add = next(node for node in self.nodes if "vocabulary.scaled" in node.input)
            scale = self.values["vocabulary.steps"] / self.values["vocabulary.step"]
            return self.values["vocabulary.weights"] * scale, self.values[add.input[1]]
        makers = {name: node for node in self.nodes for name in node.output}
        softmax = next(node for node in self.nodes if node.op_type == "LogSoftmax")
        return self._product(makers[softmax.input[0]])

    def table(self) -> Array:
        """Return what the step looks up for each word, float32 [V, g + m]."""
        if "table0.whole" in self.values:
            table: Array = self.values["table0.whole"] * self.values["table0.steps"]
            return table
        return self.values["table"]

    def matrix(self, shape: tuple[int, int]) -> Array:
        """Return the first matrix of a shape, in float32 or int8."""
        for name, array in self.values.items():
            if array.shape == shape and name.endswith(".whole"):
                return array * self.values[name.replace(".whole", ".steps")]
        return next(
            array.astype(np.float32) for array in self.values.values() if array.shape == shape
        )

    def _product(self, node: onnx.NodeProto) -> tuple[Array, Array]:
        weights = self.values[node.input[1]]
        turned = any(a.name == "transB" and helper.get_attribute_value(a) for a in node.attribute)
        weights = weights.T if turned else weights
        bias = self.values[node.input[2]] if len(node.input) > 2 else np.zeros(weights.shape[1])
        return weights, bias.astype(np.float32)


def _factors(table: Array, size: int) -> tuple[Array, Array, Array]:
    """Return E [V, e] of unit norm a row on average, A [e, g + m] and c [g + m]: T = 1 c + E A."""
    mean = table.mean(axis=0)
    left, values, right = np.linalg.svd(table - mean, full_matrices=False)
    scale = np.sqrt(len(table) / size, dtype=np.float32)
    return left[:, :size] * scale, values[:size, None] * right[:size] / scale, mean
