"""From a finished run to a bundle, which is written only where it is proved; see ``parity.py``."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
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
from mrnn_exporters.parity import Parity, compare, refuse
from mrnn_exporters.runs import Run
from mrnn_exporters.tokenizer import TOKENS
from mrnn_runtime import (
    DecodeOptions,
    UsageError,
    load,
    load_bundle,
)
from mrnn_runtime.build import blaming, save_background, write_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from mrnn_runtime import Backbone, Bundle, ImageSource, Preprocess

PHOTOS = 50
BACKGROUND = 250


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
    resize: str | None = None,
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
        resize: how photos become square, ``squash`` or ``crop``; by default as in training.
        photos: what torch and ONNX Runtime are compared on; by default the run's first dev photos,
            and the bundle gets a sample of the training photos as the background of P(sentence).

    Raises:
        UsageError: the run is not complete, the folder is in use, or an unknown ``reference`` or
            ``resize``.
        BundleError: torch and ONNX Runtime disagree; nothing is written.
        PluginError: the backbone or the cell fails, or the cell's ``step`` is not its ``forward``.
    """
    if reference not in ("refined", "cnn"):
        raise UsageError(f"unknown reference feature {reference!r}", hint="use refined or cnn")
    trained = Run.open(source)
    summary = summary or f"{trained.config.cell} on {trained.config.backbone} features"
    backbone = trained.backbone()
    compared: list[ImageSource] = [*photos] or _dev_photos(trained)
    with new_folder(output) as folder:
        encoder_graph, step = _write_graphs(trained, backbone, folder, reference)
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        (folder / "MODEL_CARD.md").write_text(
            card or _bare_card(trained, name, licence, summary), encoding="utf-8"
        )
        preprocess = replace(backbone.preprocess, resize=resize or backbone.preprocess.resize)
        manifest = _manifest(trained, preprocess, folder, decode or DecodeOptions())
        manifest |= {"name": name, "version": version, "licence": licence, "summary": summary}
        write_manifest(folder, manifest)
        captioner = load(folder, provider="cpu", threads=1)
        save_golden(captioner, folder)
        if not photos and encoded_names(encoder_graph.cell):
            save_background(encode(captioner, _background_photos(trained))[1], folder)
        parity = compare(captioner, trained, encoder_graph, step, compared)
        refuse(parity, trained.config.cell)
        manifest["training"]["export"] = asdict(parity)
        write_manifest(folder, manifest)
    return load_bundle(output), parity


def _write_graphs(
    trained: Run, backbone: Backbone, output: Path, reference: str
) -> tuple[EncoderGraph, nn.Module]:
    """Write the graphs; return the torch modules that encoder and cell must equal."""
    config, size = trained.config, backbone.preprocess
    cell = trained.cell()
    graph = EncoderGraph(backbone.module, cell, reference=reference).eval()
    with blaming(f"cell {config.cell!r}"):
        step = cell.step().eval()
        readout = cell.readout() if isinstance(cell, Separable) else None
    for module in (graph, step, readout):
        if module is not None:
            round_weights(module)
    with torch.no_grad(), blaming(f"backbone {config.backbone!r}"):
        backbone.module(torch.zeros(1, size.height, size.width, 3, dtype=torch.uint8))
    with blaming(f"cell {config.cell!r} or backbone {config.backbone!r}"):
        export_encoder(graph, output / "encoder.onnx", height=size.height, width=size.width)
    path = output / "cell.onnx"
    with torch.no_grad(), blaming(f"cell {config.cell!r}"):
        examples = cell.encode(torch.ones(2, backbone.feature_size))[: len(cell.image_inputs)]
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
        "tokens": asdict(TOKENS),
        "vocabulary_size": trained.facts["vocabulary_size"],
        "decode": {"decoder": "beam", "options": asdict(decode)},
        "rerank": {"reranker": None, "options": {}},
    }


def _bare_card(trained: Run, name: str, licence: str, summary: str) -> str:
    """What can be said of a model without knowing what it is for."""
    config, facts = trained.config, trained.facts
    if averaged := facts.get("averaged"):
        training = f"the mean of its weights and of those of {', '.join(averaged)}"
    else:
        training = f"{facts['epochs']} epochs, best dev perplexity {facts['dev_perplexity']}"
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
            f" words and special tokens, on {config.backbone} features ({facts['weights_id']})",
            f"- training: {training}",
            "",
        ]
    )


def _dev_photos(trained: Run) -> list[ImageSource]:
    """The first photos of the run's dev split."""
    examples = datasets.read_several(trained.config.datasets, "dev")
    return [example.image for example in examples[:PHOTOS]]


def _background_photos(trained: Run) -> list[datasets.Example]:
    """A sample of the run's training photos, always the same."""
    examples = datasets.read_several(trained.config.datasets, "train")
    rows = np.random.default_rng(0).permutation(len(examples))[:BACKGROUND]
    return [examples[row] for row in sorted(rows.tolist())]
