"""The proof that a bundle is the net that was trained.

Captions of photos are searched for in torch and in ONNX Runtime. An export fails where one greedy
or beam-5 caption differs, or along a beam-5 caption, word by word,

- a log-probability of the graph from that of the torch step with the same rounded weights, or one
  of the run's ``step`` from that of its ``forward``, by more than 1e-4;
- a word's log-probability in the graph from that of the run's ``forward`` by more than 0.05, which
  is what rounding weights to float16 may cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mrnn_exporters.graphs import encoded_names
from mrnn_exporters.nets import pack
from mrnn_exporters.tokenizer import TOKENS
from mrnn_runtime import (
    BundleError,
    DecodeOptions,
    EncodedImages,
    PluginError,
    Scores,
    read_image,
)
from mrnn_runtime.build import blaming, manager

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mrnn_exporters.graphs import EncoderGraph
    from mrnn_exporters.nets import Cell
    from mrnn_exporters.runs import Run
    from mrnn_runtime import Captioner, Decoder, ImageSource, SpecialTokens, StepModel

TOLERANCE = 1e-4
ROUNDING = 0.05


@dataclass(frozen=True, slots=True)
class Parity:
    """How far apart torch and ONNX Runtime were; the largest differences along beam-5 captions.

    Attributes:
        photos: how many were compared.
        log_prob: of a log-probability, the graph's from that of the step with rounded weights.
        step: of a log-probability, the step's from that of ``forward``, with the run's weights.
        rounding: of a word's log-probability, the graph's from that of the run's ``forward``.
        captions: how many of the greedy and beam-5 captions differed.
    """

    photos: int
    log_prob: float
    step: float
    rounding: float
    captions: int


@dataclass(frozen=True, slots=True)
class TorchState:
    """State of r rows in torch: image inputs, then recurrent state, each [r, ...]."""

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Return r."""
        return len(self.tensors[0])

    def take(self, rows: NDArray[np.int64]) -> TorchState:
        """Return the state of ``rows``."""
        index = torch.from_numpy(rows)
        return TorchState(tuple(tensor[index] for tensor in self.tensors))


@dataclass(frozen=True, slots=True)
class TorchStepModel:
    """The step module behind the runtime's contract, so that the runtime's decoders drive torch."""

    cell: Cell
    module: nn.Module
    vocabulary_size: int
    tokens: SpecialTokens = TOKENS

    def start(self, images: EncodedImages) -> TorchState:
        """One row an image."""
        inputs = [torch.from_numpy(np.asarray(images.inputs[n])) for n in self.cell.image_inputs]
        states = (
            torch.zeros(len(images), tensor.size)
            if tensor.init == "zeros"
            else torch.from_numpy(np.asarray(images.inputs[tensor.init]))
            for tensor in self.cell.state
        )
        return TorchState((*inputs, *states))

    def step(
        self, tokens: NDArray[np.int64], state: TorchState, top_k: int, *, full: bool = False
    ) -> tuple[Scores, TorchState]:
        """Feed one token to each row."""
        with torch.no_grad():
            logits, *after = self.module(torch.from_numpy(tokens), *state.tensors)
            log_probs = torch.log_softmax(logits, dim=1)
            # A stable sort gives equal scores in the order of their ids, as ONNX's TopK does.
            values, ids = torch.sort(log_probs, dim=1, descending=True, stable=True)
        images = state.tensors[: len(self.cell.image_inputs)]
        scores = Scores(
            ids[:, :top_k].numpy(), values[:, :top_k].numpy(), log_probs.numpy() if full else None
        )
        return scores, TorchState((*images, *after))


def compare(
    captioner: Captioner,
    trained: Run,
    graph: EncoderGraph,
    step: nn.Module,
    photos: Iterable[ImageSource],
) -> Parity:
    """Caption photos with ONNX Runtime and with torch, and measure where they differ.

    Args:
        captioner: the graphs.
        trained: the run, with the weights as they were trained.
        graph: the encoder in torch, rounded.
        step: the step in torch, rounded.
        photos: what to caption.

    Raises:
        PluginError: the cell fails.
    """
    encoder, model = captioner.encoder, captioner.model
    cell = trained.cell()
    rounded = TorchStepModel(graph.cell, step, model.vocabulary_size)
    exact = TorchStepModel(cell, cell.step().eval(), model.vocabulary_size)
    decoders: list[Decoder] = [manager().load("decoders", name)() for name in ("greedy", "beam")]
    options = DecodeOptions(beam_size=5)
    count = differ = 0
    worst = {"log_prob": 0.0, "step": 0.0, "rounding": 0.0}
    for photo in photos:
        image = read_image(photo, captioner.bundle.preprocess)[None]
        encoded = encoder.encode(image)
        with torch.no_grad(), blaming(f"cell {trained.config.cell!r}"):
            features = graph.backbone(torch.tensor(image))
            encoded_rounded = _encode(graph.cell, features)
            encoded_exact = _encode(cell, features)
        for decoder in decoders:
            caption = decoder.decode(model, encoded, options)[0][0]
            in_torch = decoder.decode(rounded, encoded_rounded, options)[0][0]
            differ += caption.tokens != in_torch.tokens
        tokens = [model.tokens.bos, *caption.tokens]
        with torch.no_grad(), blaming(f"cell {trained.config.cell!r}"):
            forward = torch.log_softmax(cell(pack([tokens]), features), dim=1).numpy()
            by_step = _step_by_step(exact, encoded_exact, tokens)
        by_graph = _step_by_step(model, encoded, tokens)
        words = np.arange(len(tokens)), [*caption.tokens, model.tokens.eos]
        for name, one, other in (
            ("log_prob", by_graph, _step_by_step(rounded, encoded_rounded, tokens)),
            ("step", by_step, forward),
            ("rounding", by_graph[words], forward[words]),
        ):
            difference = np.nan_to_num(np.abs(one - other), nan=np.inf)
            worst[name] = max(worst[name], float(difference.max()))
        count += 1
    return Parity(count, **worst, captions=differ)


def refuse(parity: Parity, cell: str) -> None:
    """Raise where a difference is too large."""
    if parity.step > TOLERANCE:
        raise PluginError(
            f"cell {cell!r}: step() differs from forward() by {parity.step:.1e} in a"
            f" log-probability (allowed {TOLERANCE}); nothing was written",
            hint="correct the cell; its contract test shows where they differ",
        )
    if parity.log_prob > TOLERANCE or parity.captions:
        raise BundleError(
            f"ONNX Runtime and torch disagree on {parity.photos} photos: log-probabilities by"
            f" {parity.log_prob:.1e} (allowed {TOLERANCE}), {parity.captions} captions differ;"
            " nothing was written",
            hint="this is a bug of the exporter or of the cell's step()",
        )
    if parity.rounding > ROUNDING:
        raise BundleError(
            f"the graph differs from the run by {parity.rounding:.1e} in a word's log-probability"
            f" (allowed {ROUNDING}): its weights do not fit float16; nothing was written",
            hint="train with --weight-decay, say",
        )


def _encode(cell: Cell, features: Tensor) -> EncodedImages:
    """Return what a cell makes of features [n, d]; nothing here reads the reference feature."""
    arrays = [tensor.numpy() for tensor in cell.encode(features)]
    return EncodedImages(dict(zip(encoded_names(cell), arrays, strict=True)), features.numpy())


def _step_by_step(
    model: StepModel, images: EncodedImages, tokens: Sequence[int]
) -> NDArray[np.float32]:
    """Return the log-probabilities after each token for one image, float32 [t, V]."""
    state, rows = model.start(images), []
    for token in tokens:
        scores, state = model.step(np.array([token]), state, 0, full=True)
        assert scores.log_probs is not None  # full=True promises them
        rows.append(scores.log_probs[0])
    return np.stack(rows)
