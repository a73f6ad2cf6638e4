"""From a bundle to a smaller and faster one that computes in int8, held against the first."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from mrnn_exporters import metrics
from mrnn_exporters.folders import new_folder
from mrnn_exporters.golden import GOLDEN, save_golden
from mrnn_exporters.graphs import save_beside, share_weights
from mrnn_exporters.int8 import quantize_convolutions, quantize_tables, quantize_vocabulary
from mrnn_runtime import BundleError, UsageError, load, load_bundle, load_references, read_image
from mrnn_runtime.build import find_model, read_manifest, save_references, write_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mrnn_exporters.datasets import Example
    from mrnn_runtime import Bundle, Candidate, Captioner, EncodedImages

AGREEMENT = 0.9
CALIBRATION = 64  # photos show the ranges well enough
BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How an int8 model differs from the model that it was made of.

    Attributes:
        photos: that both captioned, as the bundle says.
        agreement: along the first model's captions, share of the words, <eos> counted, where
            both models find the same one most likely.
        same: share of the photos whose caption is the same word by word.
        speed: how many times faster encoding and decoding is, one thread, the median of the
            batches.
        size: bytes of its graphs as a share of the first model's.
        cider: CIDEr of both, the first model's first, plain tokeniser; empty without captions.
    """

    photos: int
    agreement: float
    same: float
    speed: float
    size: float
    cider: tuple[float, ...]


def run(
    model: str | Path,
    output: Path,
    examples: Sequence[Example],
    *,
    name: str | None = None,
    agreement: float = AGREEMENT,
) -> tuple[Bundle, Comparison, list[str]]:
    """Make an int8 bundle and hold it against the bundle that it is made of.

    Args:
        model: the folder of a bundle, or the name of an installed model.
        output: the new bundle's folder; must be new or empty.
        examples: photos to take the ranges of activations from, and to compare on, with or
            without captions.
        name: what users will call the model; by default the old name and ``-int8``.
        agreement: the least agreement with which the bundle is written.

    Returns:
        The bundle, the comparison, and what had to stay float32.

    Raises:
        UsageError: the folder is in use, there is no photo, or the model is int8 already.
        BundleError: the bundle is damaged, or the agreement too low; nothing is written.
        ImageError: a photo cannot be read.
    """
    if not examples:
        raise UsageError("there is no photo to quantise with", hint="name a folder of photos")
    old = load_bundle(find_model(model))
    if old.precision != "fp32":
        raise UsageError(f"{old.folder} is {old.precision} already", hint="name the fp32 bundle")
    with new_folder(output) as folder:
        kept, comparison = _write(old, folder, examples, name or f"{old.name}-int8", agreement)
    return load_bundle(output), comparison, kept


def _write(
    old: Bundle, folder: Path, examples: Sequence[Example], name: str, least: float
) -> tuple[list[str], Comparison]:
    """Write the new bundle; return what stayed float32, and the comparison."""
    photos = [read_image(example.image, old.preprocess) for example in examples]
    for file in old.files:
        if file != GOLDEN and not file.startswith(f"{old.references}/"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old.folder / file, folder / file)
    kept = _quantize(old, folder, np.stack(photos[:: -(-len(photos) // CALIBRATION)]))
    manifest = read_manifest(old.folder) | {"name": name, "precision": "int8"}
    write_manifest(folder, manifest)
    comparison = _compare(old, folder, examples, photos)
    if comparison.agreement < least:
        raise BundleError(
            f"{old.name} in int8 would find {comparison.agreement:.1%} of the words, and at least"
            f" {least:.0%} are asked for: nothing was written",
            hint="quantise with more photos, of the kind that it will see; or lower --agreement",
        )
    manifest["training"] |= {
        "quantized": {"from": old.name, "version": old.version, **asdict(comparison)}
    }
    new = load(folder, provider="cpu", threads=1)
    save_golden(new, folder)
    if old.references:
        _carry_references(old, new.bundle, folder / old.references)
    with (folder / "MODEL_CARD.md").open("a", encoding="utf-8") as card:
        card.write(_section(old, comparison, kept))
    write_manifest(folder, manifest)
    return kept, comparison


def _quantize(old: Bundle, folder: Path, images: NDArray[np.uint8]) -> list[str]:
    """Rewrite the graphs in a folder; return what stayed float32.

    Raises:
        UsageError: all of it would.
    """
    kept = []
    # Its weights are in the cell's file.
    readout = onnx.load(folder / old.readout.file) if old.readout else None
    if not quantize_convolutions(folder / old.encoder.file, images):
        kept.append("the encoder, which has no convolution")
    path = folder / old.cell.file
    cell = onnx.load(path)
    if not quantize_vocabulary(cell):
        kept.append("the product with the vocabulary, which does not follow a tanh")
    tables = quantize_tables(cell)
    save_beside(cell, path)
    if old.readout and readout:
        quantize_vocabulary(readout)
        quantize_tables(readout)
        share_weights(readout, path)
        onnx.save(readout, folder / old.readout.file)
    if len(kept) == 2 and not tables:
        raise UsageError(f"in {old.name} nothing can become int8: {' and '.join(kept)}")
    return kept


def _compare(
    old: Bundle, folder: Path, examples: Sequence[Example], photos: Sequence[NDArray[np.uint8]]
) -> Comparison:
    """Let both models caption the photos in turn."""
    pair = [load(place, provider="cpu", threads=1) for place in (old.folder, folder)]
    captions: tuple[list[Candidate], list[Candidate]] = ([], [])
    ratios, agreed = [], []
    _caption(pair[1], np.stack(photos[:BATCH]))  # which loads the code that both share
    for start in range(0, len(photos), BATCH):
        images = np.stack(photos[start : start + BATCH])
        done = [_caption(captioner, images) for captioner in pair]
        ratios.append(done[0].seconds / done[1].seconds)
        for collected, one in zip(captions, done, strict=True):
            collected.extend(one.captions)
        first, second = (
            _likeliest(captioner, one.images, done[0].captions)
            for captioner, one in zip(pair, done, strict=True)
        )
        agreed += [a == b for a, b in zip(first, second, strict=True)]
    texts = [
        [captioner.vocabulary.decode(caption.tokens) for caption in its_captions]
        for captioner, its_captions in zip(pair, captions, strict=True)
    ]
    reference_captions = [example.captions for example in examples]
    cider = [
        metrics.measure(reference_captions, its_texts, tokeniser="plain").values["CIDEr"]
        for its_texts in (texts if all(reference_captions) else ())
    ]
    graphs = [sum(_bytes(captioner.bundle)) for captioner in pair]
    return Comparison(
        photos=len(photos),
        agreement=statistics.mean(agreed),
        same=statistics.mean(a == b for a, b in zip(*texts, strict=True)),
        speed=statistics.median(ratios),
        size=graphs[1] / graphs[0],
        cider=tuple(cider),
    )


@dataclass(frozen=True, slots=True)
class _Captioned:
    images: EncodedImages
    captions: list[Candidate]
    seconds: float


def _caption(captioner: Captioner, pixels: NDArray[np.uint8]) -> _Captioned:
    """Encode and decode images, uint8 [n, h, w, 3], and take the time."""
    start = time.perf_counter()
    images = captioner.encoder.encode(pixels)
    captions = [candidates[0] for candidates in captioner.decode(images)]
    return _Captioned(images, captions, time.perf_counter() - start)


def _likeliest(
    captioner: Captioner, images: EncodedImages, captions: Sequence[Candidate]
) -> list[int]:
    """Return the likeliest token at each place of captions, after the words that stand before."""
    model, state = captioner.model, captioner.model.start(images)
    lengths = np.array([len(caption.tokens) for caption in captions])
    words = np.full((lengths.max() + 1, len(captions)), model.tokens.bos)
    for column, caption in enumerate(captions):
        words[1 : 1 + len(caption.tokens), column] = caption.tokens
    tokens: list[int] = []
    for place, row in enumerate(words):
        scores, state = model.step(row, state, 1)
        tokens += scores.ids[lengths >= place, 0].tolist()
    return tokens


def _bytes(bundle: Bundle) -> list[int]:
    return [fact.bytes for name, fact in bundle.files.items() if ".onnx" in name]


def _carry_references(old: Bundle, new: Bundle, folder: Path) -> None:
    """Copy the references; what the new encoder makes of a photo is close to what theirs did."""
    there = old.folder / (old.references or "")
    source = json.loads((there / "references.json").read_text(encoding="utf-8"))["source"]
    kept = there / "captions.jsonl"
    lines = map(json.loads, kept.read_text(encoding="utf-8").splitlines()) if kept.exists() else ()
    save_references(
        load_references(old),
        folder,
        new,
        source=f"{source}; features by the encoder of {old.name} {old.version}",
        captions={line["file"]: line["captions"] for line in lines} or None,
    )


def _section(old: Bundle, comparison: Comparison, kept: Sequence[str]) -> str:
    """What the model card says of it."""
    cider = " to ".join(f"{value:.3f}" for value in comparison.cider)
    return "\n".join(
        [
            "",
            "## int8",
            "",
            f"Made of {old.name} {old.version} by `mrnn quantize`; the figures above are of that"
            " model.",
            "",
            f"- the graphs take {comparison.size:.0%} of its bytes",
            f"- same word as likeliest at {comparison.agreement:.1%} of the places of its captions"
            f" of {comparison.photos} photos; the same caption for {comparison.same:.1%}",
            *([f"- CIDEr of these photos, plain tokeniser: {cider}"] if cider else []),
            *(f"- still float32: {part}" for part in kept),
            "",
        ]
    )
