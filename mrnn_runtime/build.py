"""What makers and measurers of bundles need beside ``mrnn_runtime``: our exporters, or your own.

A bundle is its files and then its manifest: write the graphs, ``tokenizer.json`` and what else
belongs to it into a folder, and ``write_manifest`` adds checksums and checks the whole as loading
would. ``load`` the folder, and ``record_golden`` and ``save_background`` give two more files, after
which the manifest is written again. ``build_references`` and ``save_references`` make the folder
that consensus reranking needs.

Letters in shapes: n images, c captions, d feature size, p positions, g n-grams, V vocabulary.
"""

from __future__ import annotations

import shutil
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.atomic import replace_file, replacing
from mrnn_runtime.bundle.loading import read_manifest, write_manifest
from mrnn_runtime.bundle.manifest import REFERENCES
from mrnn_runtime.bundle.tokenizer_file import APOSTROPHES, GLUE, WORD
from mrnn_runtime.decoding.candidates import CaptionSearch
from mrnn_runtime.decoding.confidence import SIGNALS, Calibration, signals
from mrnn_runtime.engine.flat import FLAT_GOLDEN, FlatModel, golden_images, open_flat
from mrnn_runtime.engine.golden import record_golden, replay_golden
from mrnn_runtime.engine.inputs import IMAGE_SUFFIXES, find_images
from mrnn_runtime.engine.parallel import Budget, in_order
from mrnn_runtime.engine.prepared import cache_folder
from mrnn_runtime.engine.providers import load_onnxruntime
from mrnn_runtime.engine.safety import MOST_TRIPS
from mrnn_runtime.engine.sessions import Session, cores, make_session
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.images import thumbnail
from mrnn_runtime.plugins.contracts import blaming
from mrnn_runtime.plugins.hookspecs import CONTRACT
from mrnn_runtime.plugins.manager import PluginReport, manager
from mrnn_runtime.plugins.models import find_model
from mrnn_runtime.reranking import ngrams as grams
from mrnn_runtime.reranking.neighbours import check_dtype, rounded
from mrnn_runtime.reranking.references import References, load_references, save_references
from mrnn_runtime.reranking.similarity import Frequencies, cider_d
from mrnn_runtime.retrieval.gallery import joined
from mrnn_runtime.retrieval.ranking import log_mean, save_background
from mrnn_runtime.retrieval.scorer import Scorer, load_scorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle

__all__ = [
    "APOSTROPHES",
    "CONTRACT",
    "FLAT_GOLDEN",
    "GLUE",
    "IMAGE_SUFFIXES",
    "MOST_TRIPS",
    "SIGNALS",
    "WORD",
    "Budget",
    "Calibration",
    "CaptionSearch",
    "FlatModel",
    "PluginReport",
    "Scorer",
    "Session",
    "blaming",
    "build_references",
    "cache_folder",
    "check_dtype",
    "cider_d",
    "cores",
    "find_images",
    "find_model",
    "golden_images",
    "in_order",
    "joined",
    "load_onnxruntime",
    "load_scorer",
    "log_mean",
    "make_session",
    "manager",
    "open_flat",
    "read_manifest",
    "record_golden",
    "replace_file",
    "replace_references",
    "replacing",
    "replay_golden",
    "save_background",
    "save_references",
    "signals",
    "thumbnail",
    "write_manifest",
]


def build_references(
    images: Sequence[str],
    features: NDArray[np.float32],
    captions: Sequence[Sequence[Sequence[int]]],
    vocabulary_size: int,
    *,
    dtype: str = "int8",
) -> References:
    """Build references in memory.

    Frequencies and norms are exact, those of n-grams with words that the model does not know too;
    the n-grams themselves are kept as far as the model knows their words, since no caption of its
    own can have others.

    Args:
        images: ids, for example names of files.
        features: float32 [n, d], of each image.
        captions: of each image the captions, as ids of words; a word that the model does not know
            has an id of V or more, the same one wherever it occurs. Captions without words are
            left out, and images without captions.
        vocabulary_size: V, special tokens included.
        dtype: ``int8`` or ``float16``, of the features that are kept.

    Raises:
        UsageError: no caption has a word, there are more than 65,535 different words, or a feature
            is not finite.
    """
    said = [[list(caption) for caption in group if caption] for group in captions]
    kept = np.array([i for i, group in enumerate(said) if group], np.int64)
    sentences = [caption for group in said for caption in group]
    if not sentences:
        raise UsageError("there is no caption with a word in it", hint="check the data set")
    most = max(map(max, sentences)) + 1
    if most > grams.MOST_WORDS:
        raise UsageError(
            f"the captions and the vocabulary have {most} different words; references hold"
            f" {grams.MOST_WORDS}",
            hint="build them of fewer captions",
        )
    first_caption = _starts([len(said[i]) for i in kept])
    longest, owner = grams.longest_ngrams(sentences)
    image = np.repeat(np.arange(len(kept)), [len(said[i]) for i in kept])
    frequent, counts, norms = _weigh(longest, owner, image)
    known = grams.known_words(longest, vocabulary_size)
    order = np.lexsort((known, owner))
    order = order[known[order] > 0]
    useful = grams.known_words(frequent, vocabulary_size) == frequent
    return References(
        images=tuple(images[i] for i in kept),
        features=rounded(features[kept], dtype),
        first_caption=first_caption,
        first_ngram=_starts(np.bincount(owner[order], minlength=len(sentences)).tolist()),
        ngrams=known[order],
        lengths=_narrow(np.array([len(sentence) for sentence in sentences])),
        norms=norms.astype(np.float32),
        frequencies=Frequencies(len(kept), frequent[useful], _narrow(counts[useful])),
    )


def replace_references(bundle: Bundle, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put references into a bundle, in place of those that it has, and write its manifest.

    Wherever this is cut off, the bundle loads, as it was before or as it is to be.

    Args:
        bundle: to be given the references.
        folder: the references, as ``save_references`` wrote them.
        manifest: the fields of ``bundle.json``, as for ``write_manifest``.

    Raises:
        BundleError: they are damaged or another model's, a field is wrong, or the bundle cannot be
            written.
    """
    load_references(bundle, folder)
    target = bundle.folder / next(name for name in REFERENCES if name != bundle.references)
    scratch = bundle.folder / f".{target.name}"
    try:
        for left in (scratch, target):  # by one that was cut off
            if left.exists():
                shutil.rmtree(left)
        shutil.copytree(folder, scratch)
        scratch.rename(target)
        write_manifest(bundle.folder, {**manifest, "references": target.name})
        if bundle.references:
            shutil.rmtree(bundle.folder / bundle.references)
    except OSError as error:
        raise BundleError(
            f"{bundle.folder} cannot be written: {error}", hint="copy it first"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _weigh(
    longest: NDArray[np.uint64], owner: NDArray[np.int64], image: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.float64]]:
    """Count n-grams.

    Args:
        longest: uint64 [p], from ``longest_ngrams``.
        owner: int64 [p], the caption of each.
        image: int64 [c], the image of each caption.

    Returns:
        The n-grams of two images or more, ascending, uint64 [g], in how many images they are,
        int64 [g], and the norms of the captions' weighted n-grams, float64 [c, 4].
    """
    frequent, frequencies = [], []
    norms = np.zeros((len(image), grams.LONGEST))
    images = int(image[-1]) + 1
    for column, (where, ngrams) in enumerate(grams.every_ngram(longest)):
        different, index = np.unique(ngrams, return_inverse=True)
        pairs = np.unique(index * images + image[owner[where]])
        counts = np.bincount(pairs // images, minlength=len(different))
        weights = np.log(float(images)) - np.log(counts)
        cells, times = np.unique(owner[where] * len(different) + index, return_counts=True)
        caption, ngram = np.divmod(cells, max(1, len(different)))
        squares = (times * weights[ngram]) ** 2
        norms[:, column] = np.sqrt(np.bincount(caption, squares, minlength=len(image)))
        frequent.append(different[counts > 1])
        frequencies.append(counts[counts > 1])
    return np.concatenate(frequent), np.concatenate(frequencies), norms


def _starts(counts: Sequence[int]) -> NDArray[np.unsignedinteger]:
    return _narrow(np.fromiter(chain([0], accumulate(counts)), np.int64, len(counts) + 1))


def _narrow(numbers: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """Return the numbers in the smallest unsigned type that holds them."""
    kind: type[np.unsignedinteger] = np.min_scalar_type(int(numbers.max(initial=0))).type
    return numbers.astype(kind)
