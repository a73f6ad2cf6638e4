"""Prompts of chat clients, which a captioner does not follow, and the one kind that it does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mrnn_runtime import UsageError
from mrnn_serve.limits import Refusal
from mrnn_serve.works import Describe, Photo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from mrnn_runtime import Caption, Captioner
    from mrnn_serve.service import Service

_ELLIPSES = ("...", "…")


def follow(captioner: Captioner, prompt: str, *, n_best: int | None = None) -> Describe:
    """Return what a prompt asks for.

    One that ends in an ellipsis, ``a photo of ...``, is the beginning of the caption, if the model
    knows its words. Every other prompt asks for a caption, whatever it says.
    """
    begun = prompt.strip()
    for ellipsis in _ELLIPSES:
        if begun.endswith(ellipsis):
            try:
                prefix = begun.removesuffix(ellipsis).strip()[:200]
                return Describe(captioner, captioner.options(prefix=prefix, n_best=n_best))
            except UsageError:
                break
    return Describe(captioner, captioner.options(n_best=n_best))


async def caption_all(
    service: Service, request: Request, images: Sequence[bytes], work: Describe
) -> list[Caption]:
    """Return the captions of all images of a prompt.

    Raises:
        ImageError: one of them cannot be read.
        Refusal: there is none (400), or as ``Service.describe``.
    """
    if not images:
        raise Refusal(400, "a caption needs an image", "this model answers to photos, not to text")
    photos = [Photo(f"image {place}", data) for place, data in enumerate(images, 1)]
    captions = await service.describe(request, photos, work)
    for caption in captions:
        if caption.error is not None:
            raise caption.error
    return captions


def words(captions: Sequence[Caption]) -> int:
    """Return how many tokens were made: the words, and an end sign each."""
    return sum(len(caption.text.split()) + 1 for caption in captions)


def confidence(caption: Caption) -> float:
    """Return how sure the model is, 0..1.

    That is the confidence of a bundle that was calibrated; of others the geometric mean of the
    probabilities of a caption's words and end sign.
    """
    if caption.confidence is not None:
        return caption.confidence
    return math.exp((caption.log_prob or 0.0) / words([caption]))
