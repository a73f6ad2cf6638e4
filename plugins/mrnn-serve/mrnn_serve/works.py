"""What the threads do with a batch. Works that are equal share one; see ``batching``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime import (
    Caption,
    Captioner,
    DecodeOptions,
    EncodedImages,
    Gallery,
    ImageError,
    Match,
    find_photos,
    rank_sentences,
    read_image,
)
from mrnn_runtime.build import Budget

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as it came.

    Attributes:
        name: what the client called it, or its place in the request, from 1.
        data: the bytes of a file.
    """

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Read:
    """Photos to pixels, uint8 [h, w, 3], or to why one cannot be read."""

    captioner: Captioner
    max_pixels: int
    memory: Budget

    def __call__(self, photos: Sequence[Photo]) -> list[NDArray[np.uint8] | ImageError]:
        """Read each photo."""
        return [self._read(photo) for photo in photos]

    def _read(self, photo: Photo) -> NDArray[np.uint8] | ImageError:
        try:
            with self.memory.claims() as claim:
                return read_image(
                    photo.data,
                    self.captioner.bundle.preprocess,
                    name=photo.name,
                    max_pixels=self.max_pixels,
                    claim=claim,
                )
        except ImageError as error:
            return error


@dataclass(frozen=True, slots=True)
class Describe:
    """Pixels, uint8 [h, w, 3], to captions."""

    captioner: Captioner
    options: DecodeOptions
    decoder: str | None = None
    reranker: str | None = None
    explain: bool = False

    def __call__(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Caption]:
        """Caption each photo."""
        return list(
            self.captioner.caption(
                pixels,
                batch_size=len(pixels),
                decoder=self.decoder,
                reranker=self.reranker,
                explain=self.explain,
                options=self.options,
            )
        )


@dataclass(frozen=True, slots=True)
class Encode:
    """Pixels, uint8 [h, w, 3], to image inputs, one row each."""

    captioner: Captioner

    def __call__(self, pixels: Sequence[NDArray[np.uint8]]) -> list[EncodedImages]:
        """Encode each photo."""
        images = self.captioner.encoder.encode(np.stack(pixels))
        return [images.take(np.array([row])) for row in range(len(images))]


@dataclass(frozen=True, slots=True)
class Find:
    """Galleries to their photos, ranked for a sentence."""

    captioner: Captioner
    sentence: str

    def __call__(self, galleries: Sequence[Gallery]) -> list[list[Match]]:
        """Rank the photos of each gallery."""
        return [find_photos(self.captioner, self.sentence, gallery) for gallery in galleries]


@dataclass(frozen=True, slots=True)
class Rank:
    """Galleries to sentences, ranked for each photo."""

    captioner: Captioner
    sentences: tuple[str, ...]

    def __call__(self, galleries: Sequence[Gallery]) -> list[list[list[Match]]]:
        """Rank the sentences for the photos of each gallery."""
        return [rank_sentences(self.captioner, self.sentences, gallery) for gallery in galleries]
