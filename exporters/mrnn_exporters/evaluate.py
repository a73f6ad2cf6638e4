"""Measure an exported bundle on a data set, through the runtime that ships it; no torch.

Photos are encoded and decoded once. What the encoder made of them serves the perplexity as well,
and the candidates serve every reranker.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_exporters import datasets, metrics, provenance
from mrnn_exporters.encoding import PHOTOS, encode
from mrnn_exporters.progress import on_all_cores
from mrnn_exporters.scoring import measure_perplexity
from mrnn_runtime import RerankOptions, UsageError, load
from mrnn_runtime.build import build_references, cider_d

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mrnn_exporters.scoring import Perplexity
    from mrnn_runtime import Candidate, Captioner, DecodeOptions, EncodedImages


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How captions are searched for; what is None or empty is the bundle's default.

    Attributes:
        decoder: name of a decoder.
        rerankers: names of rerankers, or ``none``; a row of figures each, of the same candidates.
        beam_size: hypotheses kept per photo.
        length_penalty: alpha in log_prob / length ** alpha.
        k: reference images that vote in a consensus; a row each.
        m: similarities that count in a consensus; a row each.
        references: the folder of the references, or None for the bundle's.
        leave_one_out: whether a reference that is the photo itself has no vote.
        oracle: whether to add a row of the candidates that agree most with the reference captions
            of the photo itself: what a perfect reranker could reach.
    """

    decoder: str | None = None
    rerankers: tuple[str, ...] = ()
    beam_size: int | None = None
    length_penalty: float | None = None
    k: tuple[int, ...] = ()
    m: tuple[int, ...] = ()
    references: Path | None = None
    leave_one_out: bool = False
    oracle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one choice among the candidates.

    Attributes:
        reranker: who chose, ``none`` or ``oracle``.
        k: reference images that voted, where that was asked for.
        m: similarities that counted, likewise.
        measures: of the chosen captions, by name.
    """

    reranker: str
    k: int | None
    m: int | None
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one bundle on one split, and all that is needed to get them again.

    Attributes:
        command: what was typed, without the paths of this machine.
        model: name, version and a SHA-256 of encoder, cell and vocabulary.
        dataset: name of the data set.
        split: train, dev or test.
        images: photos that were captioned.
        captions: sentences that people wrote about them.
        search: decoder, reranker and the options of decoding.
        perplexity: of the people's sentences.
        measures: those of the first row.
        rows: of each choice among the candidates.
        tokeniser: what the measures went through, ``ptb`` or ``plain``.
        provider: the execution provider that the graphs ran on.
        training: cell, seed and epochs, where the bundle says so.
        seconds: the time it took.
        commit: of the checkout that measured, or None.
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
    rows: tuple[Row, ...]
    tokeniser: str
    provider: str
    training: Mapping[str, Any]
    seconds: float
    commit: str | None
    versions: Mapping[str, str]


def run(
    model: str | Path,
    *,
    dataset: str,
    root: Path,
    split: str = "test",
    search: SearchOptions | None = None,
    limit: int | None = None,
    tokeniser: str | None = None,
    provider: str = "auto",
    coco_results: Path | None = None,
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
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
        coco_results: a folder that gets the captions as COCO's server takes them:
            captions_SPLIT_NAME_results.json.
        command: what was typed, for the record.

    Raises:
        UsageError: an unknown name, a damaged data set, more than 1 % of the photos unreadable, or
            results for COCO's server of photos that COCO did not number.
        BundleError: the bundle is damaged.
        ProviderError: the provider is not really there.
        PluginError: the decoder or the reranker fails.
        MrnnError: a Java program of the measures failed.
    """
    began = time.monotonic()
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}")
    examples = datasets.read(dataset, root, split)[:limit]
    if coco_results and any(example.coco_id is None for example in examples):
        raise UsageError(
            f"{dataset} has no COCO ids, which the results for COCO's server need",
            hint="leave out --coco-results",
        )
    # One thread a graph: the cores share the photos instead, which is twice as fast.
    captioner = load(model, provider=provider, threads=1)
    wanted = search or SearchOptions()
    options = captioner.options(beam_size=wanted.beam_size, length_penalty=wanted.length_penalty)
    choices = _choices(captioner, wanted)
    examples, images = encode(captioner, examples)
    perplexity = measure_perplexity(captioner, images, [e.captions for e in examples])
    candidates = decode_all(captioner, images, wanted.decoder, options)
    reference_captions = [e.captions for e in examples]
    rows, used, chosen = [], "", []
    for name, rerank in choices:
        scores = _scores(captioner, images, candidates, reference_captions, name, rerank)
        best = [
            row[int(np.argmax(numbers))] for row, numbers in zip(candidates, scores, strict=True)
        ]
        texts = [captioner.vocabulary.decode(candidate.tokens) for candidate in best]
        measures = metrics.measure(reference_captions, texts, tokeniser=tokeniser)
        rows.append(Row(reranker=name, k=rerank.k, m=rerank.m, measures=measures.values))
        used = measures.tokeniser
        chosen.append(texts)
    if coco_results:
        _write_coco_results(coco_results, split, captioner.bundle.name, examples, chosen[0])
    bundle = captioner.bundle
    return Report(
        command=command,
        model=provenance.model(bundle),
        dataset=dataset,
        split=split,
        images=len(examples),
        captions=sum(len(e.captions) for e in examples),
        search={
            "decoder": wanted.decoder or bundle.decoder,
            "reranker": rows[0].reranker,
            "beam_size": options.beam_size,
            "length_penalty": options.length_penalty,
            "min_length": options.min_length,
            "max_length": options.max_length,
            "no_repeat_ngram": options.no_repeat_ngram,
        },
        perplexity=perplexity,
        measures=rows[0].measures,
        rows=tuple(rows),
        tokeniser=used,
        provider=captioner.encoder.provider,
        training=provenance.training(bundle),
        seconds=round(time.monotonic() - began, 1),
        commit=provenance.commit(),
        versions=provenance.versions(),
    )


def _write_coco_results(
    folder: Path, split: str, name: str, examples: Sequence[datasets.Example], texts: Sequence[str]
) -> None:
    records = [
        {"image_id": example.coco_id, "caption": text}
        for example, text in zip(examples, texts, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"captions_{split}_{name}_results.json"
    file.write_text(json.dumps(records), encoding="utf-8")


def _choices(captioner: Captioner, search: SearchOptions) -> list[tuple[str, RerankOptions]]:
    """Return who chooses among the candidates, and how: a row each.

    Raises:
        UsageError: an unknown reranker, or a number out of range.
        BundleError: there are no references where a reranker needs some, or they are damaged.
    """
    no_images = captioner.encode([])
    choices = []
    for name in search.rerankers or (captioner.bundle.reranker or "none",):
        sizes = product(search.k or (None,), search.m or (None,))
        for k, m in [(None, None)] if name == "none" else sizes:
            rerank = RerankOptions(
                k=k, m=m, references=search.references, leave_one_out=search.leave_one_out
            )
            _scores(captioner, no_images, [], [], name, rerank)  # names and references are checked
            choices.append((name, rerank))
    return [*choices, *([("oracle", RerankOptions())] if search.oracle else [])]


def decode_all(
    captioner: Captioner, images: EncodedImages, decoder: str | None, options: DecodeOptions
) -> list[list[Candidate]]:
    """Return all candidates of each image, in the decoder's order."""
    kept = replace(options, n_best=max(options.n_best, options.beam_size))
    rows = np.arange(len(images))
    parts = [images.take(rows[i : i + PHOTOS]) for i in range(0, len(rows), PHOTOS)]
    decode = partial(captioner.decode, decoder=decoder, options=kept)
    return [kept for part in on_all_cores(decode, parts, "captions") for kept in part]


def _scores(
    captioner: Captioner,
    images: EncodedImages,
    candidates: Sequence[Sequence[Candidate]],
    reference_captions: Sequence[Sequence[str]],
    reranker: str,
    rerank: RerankOptions,
) -> list[list[float]]:
    if reranker == "none":
        return [[-float(place) for place in range(len(row))] for row in candidates]
    if reranker == "oracle":
        return cider_of(captioner, candidates, reference_captions)
    return captioner.rerank(images, candidates, reranker=reranker, options=rerank)


def cider_of(
    captioner: Captioner,
    candidates: Sequence[Sequence[Candidate]],
    reference_captions: Sequence[Sequence[str]],
) -> list[list[float]]:
    """Return each candidate's CIDEr-D with the reference captions of its photo.

    The document frequencies are those of the split, as in pycocoevalcap's figures.
    """
    ids = iter(
        captioner.vocabulary.encode_all([text for group in reference_captions for text in group])
    )
    captions = [[next(ids) for _ in group] for group in reference_captions]
    no_features = np.zeros((len(reference_captions), 1), np.float32)
    truth = build_references(
        [str(i) for i in range(len(reference_captions))],
        no_features,
        captions,
        captioner.vocabulary.size,
    )
    scores = [[0.0] * len(row) for row in candidates]
    for place, name in enumerate(truth.images):  # photos without a reference caption are left out
        hypotheses = [candidate.tokens for candidate in candidates[int(name)]]
        similarity = cider_d(hypotheses, truth.captions_of(np.array([place])), truth.frequencies)
        scores[int(name)] = similarity.mean(axis=1).tolist()
    return scores
