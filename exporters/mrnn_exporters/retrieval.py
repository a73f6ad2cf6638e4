"""The paper's two retrieval tasks on a data set, through the runtime that ships; no torch.

Sentence retrieval ranks all sentences of the split for a photo by P(w | I) / P(w); P(w) is the mean
of P(w | I') over photos I' sampled from the training split. Image retrieval ranks all photos for a
sentence by P(w | I).

Letters in shapes: n images, s sentences, b background images.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_exporters import datasets, provenance
from mrnn_exporters.encoding import encode
from mrnn_exporters.progress import on_all_cores
from mrnn_exporters.shards import locked, unwritable
from mrnn_runtime import UsageError, load
from mrnn_runtime.build import load_scorer, log_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_runtime import Captioner, EncodedImages
    from mrnn_runtime.build import Scorer

BACKGROUND = 200
_BLOCK = 32  # images that are scored and kept together


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalReport:
    """The figures of one bundle on one split, and all that is needed to get them again.

    Attributes:
        command: what was typed, without the paths of this machine.
        model: name, version and a SHA-256 of encoder, cell and vocabulary.
        dataset: name of the data set.
        split: train, dev or test.
        images: photos that were ranked.
        sentences: sentences that were ranked.
        background: training photos in the mean that is P(w).
        seed: of their choice.
        sentence_retrieval: R@1, R@5, R@10 in percent, and Med r; a photo's rank is the best one of
            its own sentences.
        image_retrieval: likewise; a sentence's rank is that of its photo.
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
    sentences: int
    background: int
    seed: int
    sentence_retrieval: Mapping[str, float]
    image_retrieval: Mapping[str, float]
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
    cache: Path,
    split: str = "test",
    background: int = BACKGROUND,
    seed: int = 0,
    limit: int | None = None,
    provider: str = "auto",
    command: str = "",
) -> RetrievalReport:
    """Rank the sentences of a split for its photos, and the photos for its sentences.

    What has been scored lies in ``cache`` until all is done, so a run that was stopped goes on
    where it was.

    Args:
        model: the folder of a bundle, or the name of an installed model.
        dataset: name of the data set.
        root: the data set's folder.
        cache: where unfinished work is kept.
        split: train, dev or test.
        background: how many training photos make P(w).
        seed: of their choice.
        limit: take the first photos only.
        provider: ``auto``, ``cpu`` or ``cuda``.
        command: what was typed, for the record.

    Raises:
        UsageError: an unknown name, a damaged data set, more than 1 % of the photos unreadable, a
            number out of range, or a model that never sees the image.
        BundleError: the bundle is damaged.
        ProviderError: the provider is not really there.
        MrnnError: the cache cannot be written.
    """
    began = time.monotonic()
    if background < 1 or (limit is not None and limit < 1):
        raise UsageError(f"background and limit must be at least 1, not {background} and {limit}")
    captioner = load(model, provider=provider, threads=1)
    bundle = captioner.bundle
    if not bundle.image_inputs and all(state.init == "zeros" for state in bundle.state):
        raise UsageError(
            f"{bundle.name} never sees the image: to it all photos are alike",
            hint="retrieval wants a net with an image input",
        )
    examples, images = encode(captioner, datasets.read(dataset, root, split)[:limit])
    sentences = [
        (row, ids)
        for row, example in enumerate(examples)
        for sentence in example.captions
        if (ids := captioner.vocabulary.encode(sentence))
    ]
    scorer = load_scorer(captioner.model, [ids for _, ids in sentences])
    others = _sample(captioner, datasets.read(dataset, root, "train"), background, seed)
    prior = log_mean(_score(scorer, others, cache, "background"))
    scores = _score(scorer, images, cache, "sentences")
    of = np.array([row for row, _ in sentences])
    return RetrievalReport(
        command=command,
        model=provenance.model(bundle),
        dataset=dataset,
        split=split,
        images=len(images),
        sentences=len(sentences),
        background=len(others),
        seed=seed,
        sentence_retrieval=measures(sentence_ranks(scores - prior, of)),
        image_retrieval=measures(image_ranks(scores, of)),
        provider=captioner.encoder.provider,
        training=provenance.training(bundle),
        seconds=round(time.monotonic() - began, 1),
        commit=provenance.commit(),
        versions=provenance.versions(),
    )


def sentence_ranks(scores: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each image that has a sentence the best rank among its own, from 1; int64 [n'].

    Another image's sentence of the same score stands before it.

    Args:
        scores: float64 [n, s], higher is better.
        of: int64 [s], the image that each sentence is about.
    """
    ranks = []
    for image in np.unique(of):
        own = of == image
        best = scores[image, own].max()
        ranks.append(1 + int((scores[image, ~own] >= best).sum()))
    return np.array(ranks, np.int64)


def image_ranks(scores: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each sentence the rank of its image, from 1; int64 [s].

    Another image of the same score stands before it. Arguments are those of ``sentence_ranks``.
    """
    own = scores[of, np.arange(len(of))]
    ranks: NDArray[np.int64] = (scores >= own).sum(axis=0)
    return ranks


def measures(ranks: NDArray[np.int64]) -> dict[str, float]:
    """Return R@1, R@5 and R@10 in percent, and the median rank."""
    recalls = {f"R@{k}": round(100 * float((ranks <= k).mean()), 2) for k in (1, 5, 10)}
    return {**recalls, "Med r": float(np.median(ranks))}


def _sample(
    captioner: Captioner, examples: Sequence[datasets.Example], count: int, seed: int
) -> EncodedImages:
    rows = np.random.default_rng(seed).permutation(len(examples))[:count]
    _, images = encode(captioner, [examples[row] for row in sorted(rows.tolist())])
    return images


def _score(scorer: Scorer, images: EncodedImages, cache: Path, what: str) -> NDArray[np.float64]:
    """Return ln P(sentence | image), float64 [n, s]; blocks of images are shared among the cores.

    Each block is a file of the cache as soon as it is done. The files go when all are; another
    process that scores the same waits for that.

    Raises:
        MrnnError: the cache cannot be written.
    """
    folder = cache / "retrieval" / _key(scorer, images)
    starts = list(range(0, len(images), _BLOCK))
    job = partial(_score_block, scorer, images, folder)
    with locked(folder):
        try:
            scores = np.concatenate(list(on_all_cores(job, starts, what)))
            for file in folder.glob("*.*"):
                file.unlink()
        except OSError as error:
            raise unwritable(folder, error) from error
    return scores


def _score_block(
    scorer: Scorer, images: EncodedImages, folder: Path, start: int
) -> NDArray[np.float64]:
    rows = np.arange(start, min(start + _BLOCK, len(images)))
    file = folder / f"{start}.npy"
    if file.exists():
        done: NDArray[np.float64] = np.load(file, allow_pickle=False)
        return done
    scores = scorer.log_probs(images.take(rows))
    scratch = file.with_suffix(f".{os.getpid()}")
    with scratch.open("wb") as stream:
        np.save(stream, scores, allow_pickle=False)
    scratch.replace(file)
    return scores


def _key(scorer: Scorer, images: EncodedImages) -> str:
    """Return what changes with the model, with the sentences or with the images."""
    tree = scorer.sentences
    arrays: list[NDArray[Any]] = [tree.tokens, tree.parents, tree.ends]
    arrays += [images.inputs[name] for name in sorted(images.inputs)]
    # What the model says of the first images stands for the model.
    arrays.append(scorer.log_probs(images.take(np.arange(1))))
    joined = hashlib.sha256()
    for array in arrays:
        joined.update(np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()[:32]
