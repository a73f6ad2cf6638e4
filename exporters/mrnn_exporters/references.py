"""References for consensus reranking: made from a data set, and put into a bundle. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_exporters import datasets
from mrnn_exporters.encoding import encode
from mrnn_exporters.folders import new_folder, refuse_no_bundle
from mrnn_runtime import RerankOptions, UsageError, load, load_bundle
from mrnn_runtime.build import (
    build_references,
    check_dtype,
    read_manifest,
    replace_references,
    save_references,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_runtime import References


def build(
    model: str | Path,
    output: Path,
    *,
    sets: Sequence[tuple[str, str]],
    split: str = "train",
    limit: int | None = None,
    dtype: str = "int8",
    keep_captions: bool = False,
    provider: str = "auto",
) -> References:
    """Build references of a split and write them into a new folder.

    Args:
        model: the folder of a bundle, or the name of an installed model.
        output: the new folder.
        sets: name and folder of each data set.
        split: train, dev or test.
        limit: take so many of the photos, evenly spread; None takes all.
        dtype: ``int8`` or ``float16``, of the features.
        keep_captions: whether the folder gets a file with the readable captions.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        UsageError: an unknown name, a damaged data set, more than 1 % of the photos unreadable,
            or nothing to build references of.
        BundleError: the bundle is damaged, or the folder cannot be written.
        ProviderError: the provider is not really there.
    """
    check_dtype(dtype)
    with new_folder(output) as folder:
        examples = [e for name, root in sets for e in datasets.read(name, root, split)]
        if limit is not None and limit < len(examples):
            examples = [examples[i * len(examples) // limit] for i in range(limit)]
        captioner = load(model, provider=provider, threads=1)
        examples, images = encode(captioner, examples)
        ids = iter(captioner.vocabulary.encode_all([c for e in examples for c in e.captions]))
        references = build_references(
            [example.path.name for example in examples],
            images.reference_feature,
            [[next(ids) for _ in example.captions] for example in examples],
            captioner.vocabulary.size,
            dtype=dtype,
        )
        captions = {e.path.name: e.captions for e in examples} if keep_captions else None
        bundle = captioner.bundle
        save_references(
            references,
            folder,
            bundle,
            source=f"{', '.join(name for name, _ in sets)} {split}",
            captions=captions,
        )
    return references


def add(
    references: Path,
    folder: Path,
    *,
    reranker: str | None = None,
    k: int | None = None,
    m: int | None = None,
    default: bool = False,
) -> None:
    """Put references into a bundle, in place of those that it has, and rewrite ``bundle.json``.

    Args:
        references: a folder that ``build`` wrote.
        folder: the bundle.
        reranker: the reranker that k and m are for.
        k: the reranker's default, recorded in the bundle.
        m: likewise.
        default: whether captions are reranked by it from now on, unless told otherwise.

    Raises:
        UsageError: k, m or ``default`` without a reranker, or a number out of range.
        BundleError: the bundle or the references are damaged, or do not belong together.
    """
    if reranker is None and (k or m or default):
        raise UsageError("k, m and a default need the name of a reranker", hint="give --reranker")
    RerankOptions(k=k, m=m)
    refuse_no_bundle(folder)
    bundle = load_bundle(folder)
    manifest = read_manifest(folder)
    rerank: dict[str, Any] = manifest["rerank"]
    if reranker is not None:
        given = {name: value for name, value in (("k", k), ("m", m)) if value is not None}
        rerank["options"] = {**rerank["options"], reranker: given}
    if default:
        rerank["reranker"] = reranker
    replace_references(bundle, references, manifest)
