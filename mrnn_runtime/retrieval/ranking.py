"""Photos for a sentence, and sentences for a photo, as the paper ranks them.

Letters in shapes: n images, s sentences, b background images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.archives import read_archive
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.retrieval.scorer import load_scorer
from mrnn_runtime.types import EncodedImages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.captioner import Captioner
    from mrnn_runtime.retrieval.gallery import Gallery
    from mrnn_runtime.retrieval.stored import StoredGallery

BACKGROUND = "background.npz"


@dataclass(frozen=True, slots=True)
class Match:
    """How well a sentence and a photo go together.

    Attributes:
        path: the photo.
        sentence: the sentence, as the caller wrote it.
        log_prob: ln P(sentence | photo), the end sign counted.
        score: what it was ranked by: ``log_prob`` among photos; ln P(sentence | photo) -
            ln P(sentence) among sentences.
    """

    path: Path
    sentence: str
    log_prob: float
    score: float


def find_photos(
    captioner: Captioner,
    sentence: str,
    gallery: Gallery | StoredGallery,
    *,
    top: int | None = None,
) -> list[Match]:
    """Rank photos for a sentence by P(sentence | photo), the best first.

    Args:
        captioner: a loaded model.
        sentence: what to look for; words that the model does not know count as <unk>.
        gallery: the photos.
        top: how many to return, at most; None is all.

    Raises:
        UsageError: the model knows no word of the sentence.
    """
    scorer = load_scorer(captioner.model, [_words(captioner, sentence)])
    parts = [scorer.log_probs(images)[:, 0] for images in gallery.blocks()]
    scores = np.concatenate([np.empty(0), *parts])
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return [Match(gallery.path(i), sentence, float(scores[i]), float(scores[i])) for i in best]


def rank_sentences(
    captioner: Captioner,
    sentences: Sequence[str],
    gallery: Gallery,
    *,
    background: EncodedImages | None = None,
) -> list[list[Match]]:
    """Rank sentences for each photo by P(sentence | photo) / P(sentence), the best first.

    P(sentence) is the mean of P(sentence | image) over the background images.

    Args:
        captioner: a loaded model.
        sentences: what to rank; words that the model does not know count as <unk>.
        gallery: the photos.
        background: images of all kinds; by default those training photos that the bundle holds.

    Raises:
        UsageError: the model knows no word of a sentence, or there is no background.
    """
    scorer = load_scorer(captioner.model, [_words(captioner, sentence) for sentence in sentences])
    others = load_background(captioner.bundle) if background is None else background
    if not len(others):
        raise UsageError(
            "there is no background image, and P(sentence) is not known without",
            hint="name a folder of photos of all kinds that can be read",
        )
    prior = log_mean(scorer.log_probs(others))
    ranked = []
    for path, numbers in zip(gallery.paths, scorer.log_probs(gallery.images), strict=True):
        order = np.argsort(prior - numbers, kind="stable")
        ranked.append(
            [
                Match(path, sentences[i], float(numbers[i]), float(numbers[i] - prior[i]))
                for i in order
            ]
        )
    return ranked


def log_mean(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln of the mean over b images of exp(log_probs [b, s]), float64 [s]."""
    mean: NDArray[np.float64] = np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))
    return mean


def unknown_words(captioner: Captioner, sentence: str) -> list[str]:
    """Return the words of a sentence that the model does not know.

    Raises:
        UsageError: it knows none of them.
    """
    _words(captioner, sentence)
    unk = captioner.model.tokens.unk
    return [word for word in sentence.split() if unk in captioner.vocabulary.encode(word)]


def _words(captioner: Captioner, sentence: str) -> list[int]:
    ids = captioner.vocabulary.encode(sentence)
    if not set(ids) - {captioner.model.tokens.unk}:
        raise UsageError(
            f"the model knows no word of {sentence!r}",
            hint="use other words; the model knows a few thousand words of one language",
        )
    return ids


def save_background(images: EncodedImages, folder: Path) -> None:
    """Write the image inputs of training photos, as float16, into a bundle's folder."""
    arrays: dict[str, Any] = {name: a.astype(np.float16) for name, a in images.inputs.items()}
    np.savez_compressed(folder / BACKGROUND, allow_pickle=False, **arrays)


def load_background(bundle: Bundle) -> EncodedImages:
    """Return the training photos that a bundle holds for P(sentence); no reference features.

    Raises:
        UsageError: it holds none.
        BundleError: the file is damaged.
    """
    if BACKGROUND not in bundle.files:
        raise UsageError(
            f"the bundle {bundle.name} holds no {BACKGROUND}, and P(sentence) is not known without",
            hint="name a folder of photos of all kinds: --background DIR",
        )
    specs = {tensor.name: tensor for tensor in bundle.encoder.outputs}
    names = [*bundle.image_inputs, *(s.init for s in bundle.state if s.init != "zeros")]
    inputs: dict[str, NDArray[Any]] = {}
    try:
        archive = read_archive(bundle.file(BACKGROUND))
        for name in names:
            inputs[name] = archive[name].astype(specs[name].dtype)
            if inputs[name].shape[1:] != specs[name].shape[1:] or not len(inputs[name]):
                raise ValueError(f"{name} is {list(inputs[name].shape)}")
            if not np.isfinite(inputs[name]).all():
                raise ValueError(f"{name} holds numbers that are not finite")
        if len({len(array) for array in inputs.values()}) != 1:
            raise ValueError("its arrays have different lengths")
    except (ValueError, TypeError, LookupError) as error:
        raise BundleError(
            f"{bundle.file(BACKGROUND)} is damaged: {error}", hint="export the bundle again"
        ) from error
    count = len(next(iter(inputs.values())))
    return EncodedImages(inputs, np.zeros((count, 1), np.float32))
