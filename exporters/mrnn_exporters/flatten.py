"""A model as one ONNX graph, or in ONNX Runtime's own format: ``mrnn flatten``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from mrnn_exporters.search_graph import whole_graph
from mrnn_runtime.bundle.vocabulary import Vocabulary
from mrnn_runtime.engine.flat import GOLDEN, MAX_STEPS, open_flat
from mrnn_runtime.errors import BundleError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.types import DecodeOptions

FORMAT = 1


def run(
    bundle: Bundle,
    output: Path,
    *,
    decoder: str | None = None,
    options: DecodeOptions | None = None,
) -> None:
    """Write a model as one ONNX graph, or in ONNX Runtime's own format if ``output`` ends in .ort.

    Args:
        bundle: from ``load_bundle``.
        output: the file.
        decoder: ``greedy`` or ``beam``; None is the bundle's.
        options: how to search; None is as the bundle says. Beam size, n_best, lengths, length
            penalty and banned tokens go into the graph.

    Raises:
        UsageError: the decoder or an option cannot be part of a graph.
        BundleError: the bundle's graphs do not load, or the file cannot be written.
    """
    search = _search(bundle, decoder or bundle.decoder, options or bundle.decode_options)
    flat = whole_graph(bundle, search, _texts(bundle))
    facts = _facts(bundle, decoder or bundle.decoder, search)
    helper.set_model_props(flat, facts)
    onnx.checker.check_model(flat, full_check=True)
    scratch = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        onnx.save(flat, scratch)
        golden = open_flat(scratch, "cpu", threads=1).record()
        recorded = {name: array.tolist() for name, array in golden.items()}
        helper.set_model_props(flat, facts | {GOLDEN: json.dumps(recorded)})
        onnx.save(flat, scratch)
        if output.suffix == ".ort":
            _convert(scratch)
        scratch.replace(output)
    except OSError as error:
        raise BundleError(f"{output} cannot be written: {error}", hint="name another") from error
    finally:
        scratch.unlink(missing_ok=True)


def _convert(path: Path) -> None:
    """Turn a file into ONNX Runtime's own format, which its smaller builds read.

    It is optimised by the rules that hold on every machine, and its weights become float32.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    converted = path.with_name(f"{path.name}.ort")
    options.optimized_model_filepath = str(converted)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    converted.replace(path)


def _search(bundle: Bundle, decoder: str, options: DecodeOptions) -> DecodeOptions:
    """Return the options of the search that the loop makes.

    Raises:
        UsageError: no loop makes it.
    """
    if decoder not in ("greedy", "beam"):
        raise UsageError(
            f"decoder {decoder!r} cannot be part of a graph", hint="use --decoder greedy or beam"
        )
    for name in ("no_repeat_ngram", "prefix", "deadline_ms"):
        if getattr(options, name):
            raise UsageError(f"{name} cannot be part of a graph", hint="leave it out")
    if options.max_length >= MAX_STEPS:
        raise UsageError(f"max_length must be below {MAX_STEPS} in a graph")
    if decoder == "greedy":
        options = replace(options, beam_size=1, n_best=1)
    if {*range(bundle.vocabulary_size)} <= {
        *bundle.tokens.never,
        bundle.tokens.eos,
        *options.banned,
    }:
        raise UsageError("banned forbids all words of the vocabulary", hint="ban fewer words")
    return options


def _facts(bundle: Bundle, decoder: str, options: DecodeOptions) -> dict[str, str]:
    """Return what the file says of itself."""
    kept = ("beam_size", "n_best", "min_length", "max_length", "length_penalty", "banned")
    return {
        "mrnn.format": str(FORMAT),
        "mrnn.name": bundle.name,
        "mrnn.version": bundle.version,
        "mrnn.licence": bundle.licence,
        "mrnn.summary": bundle.summary,
        "mrnn.precision": bundle.precision,
        "mrnn.preprocess": json.dumps(asdict(bundle.preprocess)),
        "mrnn.decoder": decoder,
        "mrnn.options": json.dumps({name: getattr(options, name) for name in kept}),
    }


def _texts(bundle: Bundle) -> list[str]:
    """Return what each token is as text: at the start of a caption, V of them; behind a word, V."""
    vocabulary = Vocabulary.load(bundle.file("tokenizer.json"))
    special = {*bundle.tokens.never, bundle.tokens.eos}
    words = [token for token in range(bundle.vocabulary_size) if token not in special]
    starts, rests = {}, {}
    lead = vocabulary.decode(words[:1])
    for token in words:
        starts[token] = vocabulary.decode([token])
        rests[token] = vocabulary.decode([words[0], token]).removeprefix(lead)
    return [
        texts.get(token, "") for texts in (starts, rests) for token in range(bundle.vocabulary_size)
    ]
