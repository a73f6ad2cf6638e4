"""What ``bundle.json`` says: its fields as data, and the checks that they fit together.

Nothing here touches a file; :mod:`mrnn_runtime.bundle.loading` does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.checksums import FileFact, file_facts
from mrnn_runtime.bundle.tensors import (
    GraphSpec,
    StateSpec,
    TensorSpec,
    fits,
    read_graph,
    same_tensors,
)
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.types import DecodeOptions, Preprocess, RerankOptions, SpecialTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mrnn_runtime.bundle.fields import Fields
    from mrnn_runtime.decoding.confidence import Calibration

MANIFEST = "bundle.json"
TOKENIZER = "tokenizer.json"
# Where references may lie. Other references are written into the folder that is free, and used as
# soon as the manifest names it: a bundle loads at every moment of the exchange.
REFERENCES = ("references", "references-2")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose facts have been checked: its folder, and the fields of ``bundle.json``.

    Attributes:
        folder: where it lies, absolute.
        name: the model's name.
        version: the model's version.
        licence: the terms of the weights.
        summary: one line for a list of models.
        precision: the arithmetic of the graphs, for example ``fp32``.
        opset: ONNX operator set of the graphs.
        preprocess: how a photo becomes the encoder's input.
        encoder: image uint8 [n, h, w, 3] -> image inputs [n, ...], reference_feature float32
            [n, d], initial states [n, ...].
        cell: token int64 [r], image inputs, states, k int64 [1] -> log_probs float32 [r, V],
            best_values float32 [r, k], best_ids int64 [r, k], next states.
        readout: the cell above a recurrence that never sees the image, or None: token int64 [t],
            some of the states after that token [t, ...], image inputs [n, ...] -> log_probs
            float32 [t, n, V].
        image_inputs: outputs of the encoder that the cell takes.
        state: the recurrent states, at least one.
        tokens: the ids of the tokens that are no words.
        vocabulary_size: V, special tokens included.
        decoder: name of the default decoder.
        decode_options: default options of the search.
        reranker: name of the default reranker, or None.
        rerank_options: default options of rerankers, by the reranker's name.
        calibration: what makes a confidence of a search's candidates, or None.
        references: the folder that holds references for consensus reranking, or None.
        training: how the model came about; free facts.
        files: every file of the folder but bundle.json, by relative POSIX path.
    """

    folder: Path
    name: str
    version: str
    licence: str
    summary: str
    precision: str
    opset: int
    preprocess: Preprocess
    encoder: GraphSpec
    cell: GraphSpec
    readout: GraphSpec | None
    image_inputs: tuple[str, ...]
    state: tuple[StateSpec, ...]
    tokens: SpecialTokens
    vocabulary_size: int
    decoder: str
    decode_options: DecodeOptions
    reranker: str | None
    rerank_options: Mapping[str, RerankOptions]
    calibration: Calibration | None
    references: str | None
    training: Mapping[str, object]
    files: Mapping[str, FileFact]

    def file(self, name: str) -> Path:
        """Return the path of one of the bundle's files.

        Raises:
            BundleError: the bundle lists no such file.
        """
        if name not in self.files:
            raise BundleError(f"{self.folder} holds no {name}", hint="export the bundle again")
        return self.folder / name


def parse(folder: Path, top: Fields) -> Bundle:
    """Turn the fields of ``bundle.json`` into a Bundle and check that they fit together.

    Raises:
        BundleError: a field is missing, wrong, or contradicts another; the message names it.
    """
    size = top.integer("vocabulary_size", 5)
    decode = top.fields("decode")
    rerank = top.fields("rerank")
    files = file_facts(top, MANIFEST)
    bundle = Bundle(
        folder=folder,
        name=top.text("name"),
        version=top.text("version"),
        licence=top.text("licence"),
        summary=top.text("summary"),
        precision=top.text("precision"),
        opset=top.integer("opset", 1),
        preprocess=_preprocess(top),
        encoder=read_graph(top.fields("encoder")),
        cell=read_graph(top.fields("cell")),
        readout=read_graph(top.fields("readout")) if "readout" in top.values else None,
        image_inputs=top.names("image_inputs"),
        state=tuple(
            StateSpec(node.text("input"), node.text("output"), node.text("init"))
            for node in top.each("state")
        ),
        tokens=_tokens(top, size),
        vocabulary_size=size,
        decoder=decode.text("decoder"),
        decode_options=_decode_options(decode, size),
        reranker=None if rerank.values.get("reranker") is None else rerank.text("reranker"),
        rerank_options=_rerank_options(rerank.fields("options")),
        calibration=_calibration(top),
        references=_references(top, files),
        training=top.fields("training").values,
        files=files,
    )
    graphs = [graph for graph in (bundle.encoder, bundle.cell, bundle.readout) if graph]
    for name in (*(graph.file for graph in graphs), TOKENIZER):
        if name not in bundle.files:
            raise top.wrong("files", f"must list {name}")
    _check_graphs(bundle, top)
    return bundle


def _preprocess(top: Fields) -> Preprocess:
    node = top.fields("preprocess")
    # Bundles that are older do not say.
    reduced = node.take("reduced", bool, "true or false") if "reduced" in node.values else False
    try:
        return Preprocess(
            height=node.integer("height"),
            width=node.integer("width"),
            resize=node.text("resize"),
            interpolation=node.text("interpolation"),
            reduced=reduced,
        )
    except UsageError as error:
        raise top.wrong("preprocess", f"is refused: {error}") from error


def _tokens(top: Fields, size: int) -> SpecialTokens:
    node = top.fields("tokens")
    ids = [node.integer(key) for key in ("pad", "bos", "eos", "unk")]
    if len(set(ids)) < len(ids) or max(ids) >= size:
        raise top.wrong("tokens", f"must be four different ids below vocabulary_size {size}")
    return SpecialTokens(*ids)


def _decode_options(decode: Fields, size: int) -> DecodeOptions:
    node = decode.fields("options")
    known = dataclasses.asdict(DecodeOptions())
    options: dict[str, Any] = {}
    for key in node.values:
        match known.get(key):
            case tuple():
                tokens = node.take(key, list, "a list of token ids")
                if not all(type(token) is int and 0 <= token < size for token in tokens):
                    raise node.wrong(key, f"must be a list of token ids below {size}")
                options[key] = tuple(tokens)
            case bool():
                options[key] = node.take(key, bool, "true or false")
            case float():
                options[key] = node.number(key)
            case int():
                options[key] = node.integer(key)
            case _:
                raise node.wrong(key, f"is no option; the options are {', '.join(known)}")
    try:
        return DecodeOptions(**options)
    except UsageError as error:
        raise decode.wrong("options", f"are refused: {error}") from error


def _rerank_options(node: Fields) -> dict[str, RerankOptions]:
    options = {}
    for name in node.values:
        own = node.fields(name)
        for key in set(own.values) - {"k", "m"}:
            raise own.wrong(key, "is no option; the options are k, m")
        given: dict[str, Any] = {key: own.integer(key, 1) for key in own.values}
        options[name] = RerankOptions(**given)
    return options


def _calibration(top: Fields) -> Calibration | None:
    if "confidence" not in top.values:  # not calibrated, or older than confidences
        return None
    from mrnn_runtime.decoding.confidence import SIGNALS, Calibration  # needs numpy

    node = top.fields("confidence")
    weights = node.fields("weights")
    for name in weights.values:
        if name not in SIGNALS:
            raise weights.wrong(name, f"is no signal; the signals are {', '.join(SIGNALS)}")
    return Calibration(
        decoder=node.text("decoder"),
        beam_size=node.integer("beam_size", 1),
        good=node.number("good"),
        bias=node.number("bias"),
        weights={name: weights.number(name) for name in weights.values},
        threshold=node.number("threshold"),
    )


def _references(top: Fields, files: Mapping[str, FileFact]) -> str | None:
    name = top.text("references") if "references" in top.values else REFERENCES[0]
    if name not in REFERENCES:
        raise top.wrong("references", f"must be one of {', '.join(REFERENCES)}")
    return name if any(file.startswith(f"{name}/") for file in files) else None


def _check_graphs(bundle: Bundle, top: Fields) -> None:
    """Check that each graph takes and gives what it must, as the others have it."""
    size = (bundle.preprocess.height, bundle.preprocess.width, 3)
    image = next((tensor.name for tensor in bundle.encoder.inputs), "image")
    _expect(top, "encoder.inputs", bundle.encoder.inputs, TensorSpec(image, "uint8", ("n", *size)))
    encoded = {tensor.name: tensor for tensor in bundle.encoder.outputs}
    feature = encoded.get("reference_feature")
    if feature is None or not fits(feature, TensorSpec("", "float32", ("n", feature.shape[-1]))):
        raise top.wrong("encoder.outputs", "must hold reference_feature float32 [n, d]")
    _check_feeds(bundle, encoded, top)
    inputs = {tensor.name: tensor for tensor in bundle.cell.inputs}
    images = [inputs[name] for name in bundle.image_inputs]
    states = [inputs[state.input] for state in bundle.state]
    token, k = TensorSpec("token", "int64", ("r",)), TensorSpec("k", "int64", (1,))
    _expect(top, "cell.inputs", bundle.cell.inputs, token, k, *images, *states)
    width = bundle.vocabulary_size
    outputs = {tensor.name: tensor for tensor in bundle.cell.outputs}
    _expect(
        *(top, "cell.outputs", bundle.cell.outputs),
        TensorSpec("log_probs", "float32", ("r", width)),
        TensorSpec("best_values", "float32", ("r", "k")),
        TensorSpec("best_ids", "int64", ("r", "k")),
        *(outputs[state.output] for state in bundle.state),
    )
    if bundle.readout is not None:  # it may leave out states
        names = {tensor.name for tensor in bundle.readout.inputs}
        read = [state for state in states if state.name in names]
        _expect(top, "readout.inputs", bundle.readout.inputs, token, *images, *read)
        scores = TensorSpec("log_probs", "float32", ("t", "n", width))
        _expect(top, "readout.outputs", bundle.readout.outputs, scores)


def _expect(top: Fields, key: str, declared: Sequence[TensorSpec], *wanted: TensorSpec) -> None:
    if not same_tensors(declared, wanted):
        must, are = ("; ".join(map(str, tensors)) for tensors in (wanted, declared))
        raise top.wrong(key, f"must be: {must}; but they are: {are or 'none'}")


def _check_feeds(bundle: Bundle, encoded: Mapping[str, TensorSpec], top: Fields) -> None:
    """Check that image inputs and states are there, and are what the cell takes."""
    inputs = {tensor.name: tensor for tensor in bundle.cell.inputs}
    outputs = {tensor.name: tensor for tensor in bundle.cell.outputs}
    pairs = [
        ("image_inputs", f"encoder output {name}", encoded.get(name), inputs.get(name))
        for name in bundle.image_inputs
    ]
    for state in bundle.state:
        taken, handed_on = inputs.get(state.input), outputs.get(state.output)
        pairs.append(("state", f"cell output {state.output}", handed_on, taken))
        if state.init != "zeros":
            pairs.append(("state", f"encoder output {state.init}", encoded.get(state.init), taken))
    for key, name, source, sink in pairs:
        if source is None or sink is None or not fits(source, sink):
            raise top.wrong(
                key,
                f"feeds {name} ({source or 'missing'}) to a cell input ({sink or 'missing'}): both"
                " must be there, with one dtype and shape, free in the first dimension only",
            )
    if not bundle.state:
        raise top.wrong("state", "must name at least one state of the cell")
