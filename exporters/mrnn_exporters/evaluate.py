"""Measure an exported bundle on a data set, through the runtime that ships it; no torch.

The photos are encoded and captioned as ``mrnn caption`` does it, and what the encoder made of them
serves the perplexity as well.
"""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_exporters import datasets, metrics
from mrnn_exporters.cores import on_all_cores
from mrnn_exporters.scoring import measure_perplexity
from mrnn_runtime.captioner import Captioner, load
from mrnn_runtime.errors import UsageError
from mrnn_runtime.types import EncodedImages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_exporters.datasets import Example
    from mrnn_exporters.scoring import Perplexity
    from mrnn_runtime.contracts import Encoder
    from mrnn_runtime.types import Caption

_PHOTOS = 8
_PACKAGES = (
    "mrnn-runtime",
    "mrnn-exporters",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "pillow",
    "pycocoevalcap",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How captions are searched for; what is None is the bundle's default.

    Attributes:
        decoder: name of a decoder.
        reranker: name of a reranker, or ``none``.
        beam_size: hypotheses kept per photo.
        length_penalty: alpha in log_prob / length ** alpha.
    """

    decoder: str | None = None
    reranker: str | None = None
    beam_size: int | None = None
    length_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one bundle on one split, and all that is needed to get them again.

    Attributes:
        command: what was typed, without the paths of this machine.
        model: name, version and the SHA-256 of bundle.json.
        dataset: name of the data set.
        split: train, dev or test.
        images: photos that were captioned.
        captions: sentences that people wrote about them.
        search: decoder, reranker and the options of decoding.
        perplexity: of the people's sentences.
        measures: of the model's captions, by name.
        tokeniser: what the measures went through, ``ptb`` or ``plain``.
        provider: the execution provider that the graphs ran on.
        seconds: the time it took.
        versions: of the packages that matter.
    """

    command: str
    model: Mapping[str, str]
    dataset: str
    split: str
    images: int
    captions: int
    search: Mapping[str, Any]
    perplexity: Perplexity
    measures: Mapping[str, float]
    tokeniser: str
    provider: str
    seconds: float
    versions: Mapping[str, str]


def run(
    model: str | Path,
    *,
    dataset: str,
    root: Path,
    split: str = "test",
    search: Search | None = None,
    limit: int | None = None,
    tokeniser: str | None = None,
    provider: str = "auto",
    command: str = "",
) -> Report:
    """Caption a split and measure the captions and the model.

    Args:
        model: the folder of a bundle, or the name of an installed model.
        dataset: name of the data set.
        root: the data set's folder.
        split: train, dev or test.
        search: how captions are searched for.
        limit: take the first photos only.
        tokeniser: ``ptb``, ``plain``, or None: ptb where Java is there.
        provider: ``auto``, ``cpu`` or ``cuda``.
        command: what was typed, for the record.

    Raises:
        UsageError: an unknown name, a damaged data set, or more than 1 % of the photos unreadable.
        BundleError: the bundle is damaged.
        ProviderError: the provider is not really there.
        PluginError: the decoder or the reranker fails.
        MrnnError: a Java program of the measures failed.
    """
    began = time.monotonic()
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}")
    examples = datasets.read(dataset, root, split)[:limit]
    # One thread a graph: the cores share the photos instead, which is twice as fast.
    captioner = load(model, provider=provider, threads=1)
    wanted = search or Search()
    examples, captions, images = caption(captioner, examples, wanted)
    perplexity = measure_perplexity(captioner, images, [e.captions for e in examples])
    measures = metrics.measure(
        [e.captions for e in examples], [c.text for c in captions], tokeniser=tokeniser
    )
    bundle = captioner.bundle
    options = captioner.options(beam_size=wanted.beam_size, length_penalty=wanted.length_penalty)
    return Report(
        command=command,
        model={
            "name": bundle.name,
            "version": bundle.version,
            "sha256": hashlib.sha256((bundle.folder / "bundle.json").read_bytes()).hexdigest(),
        },
        dataset=dataset,
        split=split,
        images=len(examples),
        captions=sum(len(e.captions) for e in examples),
        search={
            "decoder": captions[0].decoder,
            "reranker": wanted.reranker or bundle.reranker or "none",
            "beam_size": options.beam_size,
            "length_penalty": options.length_penalty,
            "min_length": options.min_length,
            "max_length": options.max_length,
            "no_repeat_ngram": options.no_repeat_ngram,
        },
        perplexity=perplexity,
        measures=measures.values,
        tokeniser=measures.tokeniser,
        provider=captioner.encoder.provider,
        seconds=round(time.monotonic() - began, 1),
        versions={"python": platform.python_version(), **dict(_versions())},
    )


def caption(
    captioner: Captioner, examples: Sequence[Example], search: Search
) -> tuple[list[Example], list[Caption], EncodedImages]:
    """Caption photos on all cores.

    Returns:
        The examples whose photos can be read, their captions, and what the encoder made of them.

    Raises:
        UsageError: an unknown name, or more than 1 % of the photos cannot be read.
        PluginError: the decoder or the reranker fails.
    """
    chunks = [examples[i : i + _PHOTOS] for i in range(0, len(examples), _PHOTOS)]
    done = list(on_all_cores(partial(_caption_chunk, captioner, search), chunks, "captions"))
    captions = [c for part, _ in done for c in part]
    lost = [e.path for e, c in zip(examples, captions, strict=True) if c.error is not None]
    datasets.refuse_many("photos that cannot be read", lost, len(examples))
    kept = [(e, c) for e, c in zip(examples, captions, strict=True) if c.error is None]
    encoded = [part for _, parts in done for part in parts]
    images = EncodedImages(
        inputs={
            name: np.concatenate([part.inputs[name] for part in encoded])
            for name in encoded[0].inputs
        },
        reference_feature=np.concatenate([part.reference_feature for part in encoded]),
    )
    return [e for e, _ in kept], [c for _, c in kept], images


class _Recorder:
    """An encoder that remembers what it returned."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.returned: list[EncodedImages] = []

    @property
    def provider(self) -> str:
        return self._encoder.provider

    def encode(self, images: NDArray[np.uint8]) -> EncodedImages:
        self.returned.append(self._encoder.encode(images))
        return self.returned[-1]


def _caption_chunk(
    captioner: Captioner, search: Search, examples: Sequence[Example]
) -> tuple[list[Caption], list[EncodedImages]]:
    # The photos of a chunk are one call of the encoder, so what it returned is in their order.
    recorder = _Recorder(captioner.encoder)
    copy = Captioner(captioner.bundle, recorder, captioner.model, captioner.vocabulary)
    captions = copy.caption(
        [e.path for e in examples],
        batch_size=len(examples),
        decoder=search.decoder,
        reranker=search.reranker,
        beam_size=search.beam_size,
        length_penalty=search.length_penalty,
    )
    return list(captions), recorder.returned


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:  # one of onnxruntime's two wheels, or a checkout
            continue
