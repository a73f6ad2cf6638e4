"""A model as one file, ONNX or ONNX Runtime's own format: ``mrnn flatten``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from mrnn_exporters.flat_graph import whole_graph
from mrnn_runtime import BundleError, UsageError, load, read_image
from mrnn_runtime.build import (
    FLAT_GOLDEN,
    MOST_TRIPS,
    golden_images,
    load_onnxruntime,
    open_flat,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from mrnn_runtime import Bundle, Captioner, DecodeChanges, DecodeOptions
    from mrnn_runtime.build import FlatModel

FORMAT = 1
# Of log-probabilities. A graph that is joined is optimised otherwise: its last float bits differ,
# and where a rounding to 8 bits follows, more does.
TOLERANCE, TOLERANCE_INT8 = 1e-5, 1e-3


def run(
    model: str | Path,
    output: Path,
    *,
    decoder: str | None = None,
    confidence: bool | None = False,
    resize_inside: bool = False,
    **changes: Unpack[DecodeChanges],
) -> Bundle:
    """Write a model as one graph: image uint8 [n, h, w, 3] -> captions and their scores.

    What the graph finds for two images is held against what the model's decoder finds.

    Args:
        model: an installed model's name, or the folder of a bundle.
        output: the file; one that ends in ``.ort`` is in ONNX Runtime's own format.
        decoder: ``greedy`` or ``beam``; None is the model's.
        confidence: whether the graph gives captions one; None is where the model was calibrated for
            this search.
        resize_inside: whether images of any size go in, and the graph scales them.
        changes: options by name; what is not there is as the model says. Beam size, n_best, the
            lengths, the length penalty and the banned words go into the graph.

    Returns:
        The model's bundle.

    Raises:
        UsageError: the decoder or an option cannot be part of a graph, a confidence is asked for
            that the model does not have, or the file's name ends in neither .onnx nor .ort.
        BundleError: the model does not load, the graph finds other captions, or the file cannot be
            written.
    """
    if output.suffix not in (".onnx", ".ort"):
        raise UsageError(f"{output} is no name of a graph", hint="end it in .onnx or .ort")
    captioner = load(model, provider="cpu", threads=1)
    bundle, decoder = captioner.bundle, decoder or captioner.bundle.decoder
    options = _search(decoder, captioner.options(**changes))
    calibrated = bundle.calibration is not None and bundle.calibration.fits(decoder, options)
    if confidence and not calibrated:
        raise UsageError(
            f"{bundle.name} has no confidence for this search",
            hint="leave the search as the model says, or calibrate it for this one: mrnn calibrate",
        )
    flat = whole_graph(
        bundle,
        options,
        _texts(captioner),
        confidence=calibrated and confidence is not False,
        resize_inside=resize_inside,
    )
    facts = _facts(bundle, decoder, options, resize_inside=resize_inside)
    helper.set_model_props(flat, facts)
    onnx.checker.check_model(flat, full_check=True)
    scratch = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        onnx.save(flat, scratch)
        made = open_flat(scratch, "cpu", threads=1)
        _compare(captioner, made, decoder, options)
        golden = {name: array.tolist() for name, array in made.record().items()}
        helper.set_model_props(flat, facts | {FLAT_GOLDEN: json.dumps(golden)})
        onnx.save(flat, scratch)
        if output.suffix == ".ort":
            _convert(scratch)
        scratch.replace(output)
    except OSError as error:
        raise BundleError(f"{output} cannot be written: {error}", hint="name another") from error
    finally:
        scratch.unlink(missing_ok=True)
    return bundle


def _search(decoder: str, options: DecodeOptions) -> DecodeOptions:
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
    if options.max_length >= MOST_TRIPS:
        raise UsageError(f"max_length must be below {MOST_TRIPS} in a graph")
    return replace(options, beam_size=1, n_best=1) if decoder == "greedy" else options


def _facts(
    bundle: Bundle, decoder: str, options: DecodeOptions, *, resize_inside: bool
) -> dict[str, str]:
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
        "mrnn.resize": "inside" if resize_inside else "outside",
        "mrnn.decoder": decoder,
        "mrnn.options": json.dumps({name: getattr(options, name) for name in kept}),
    }


def _texts(captioner: Captioner) -> list[str]:
    """Return what each token is as text: at the start of a caption, V of them; behind a word, V."""
    decode, tokens = captioner.vocabulary.decode, captioner.model.tokens
    size = captioner.model.vocabulary_size
    starts, rests = [""] * size, [""] * size
    words = [token for token in range(size) if token not in (*tokens.never, tokens.eos)]
    lead = decode(words[:1])
    for token in words:
        starts[token] = decode([token])
        rests[token] = decode([words[0], token]).removeprefix(lead)
    return starts + rests


def _compare(captioner: Captioner, made: FlatModel, decoder: str, options: DecodeOptions) -> None:
    """Hold the graph against the decoder that it was made after, on the golden images.

    Raises:
        BundleError: they differ.
    """
    bundle = captioner.bundle
    recipe, is_int8 = bundle.preprocess, bundle.precision == "int8"
    tolerance = TOLERANCE_INT8 if is_int8 else TOLERANCE
    images = golden_images(recipe.height, recipe.width)
    given = images
    if made.facts["mrnn.resize"] == "inside":
        given = golden_images(2 * recipe.height + 1, recipe.width + 1)
        images = np.stack([read_image(image, recipe) for image in given])
    names = [output.name for output in made.session.outputs]
    outputs = dict(zip(names, made.session.run(names, {"image": given}), strict=True))
    encoded = captioner.encoder.encode(images)
    for i, candidates in enumerate(captioner.decode(encoded, decoder=decoder, options=options)):
        for j, candidate in enumerate(candidates):
            words = outputs["token"][i, j, : outputs["length"][i, j]].tolist()
            same = (
                tuple(words) == candidate.tokens
                and outputs["finished"][i, j] == candidate.finished
                and "".join(outputs["caption"][i, j])
                == captioner.vocabulary.decode(candidate.tokens)
            )
            numbers = [(outputs["log_prob"], candidate.log_prob)]
            if bundle.calibration and "confidence" in outputs:
                sure = bundle.calibration.confidence(candidate, encoded.reference_feature[i])
                numbers.append((outputs["confidence"], sure))
            if not same or not all(
                np.isclose(float(number[i, j]), wanted, rtol=1e-6, atol=tolerance)
                for number, wanted in numbers
            ):
                raise BundleError(
                    f"the graph of {bundle.name} does not find the captions of decoder"
                    f" {decoder!r}: nothing was written",
                    hint="this is a bug of mrnn flatten, or the cell is not deterministic",
                )


def _convert(path: Path) -> None:
    """Turn a file into ONNX Runtime's own format, which its smaller builds read.

    It is optimised by the rules that hold on every machine, and its weights become float32.
    """
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    converted = path.with_name(f"{path.name}.ort")
    options.optimized_model_filepath = str(converted)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    converted.replace(path)
