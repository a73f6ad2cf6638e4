"""What a worker of the cluster needs to know to caption photos, and the captioner made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mrnn_ray.records import table
from mrnn_runtime import DecodeChanges, load
from mrnn_runtime.build import joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mrnn_runtime import Bundle, Captioner, EncodedImages, Encoder, ImageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to caption; goes to the workers.

    Attributes:
        model: a name or a folder that every node knows.
        provider: as ``load`` has it.
        cpus: cores of a worker.
        decoder: as ``Captioner.caption`` has it, like ``reranker`` and ``changes``.
        reranker: the name of a reranker, or ``none``.
        changes: decoding options.
        vectors: whether rows also hold what the encoder made of the photo.
    """

    model: str | None = None
    provider: str = "auto"
    cpus: int = 1
    decoder: str | None = None
    reranker: str | None = None
    changes: DecodeChanges = field(default_factory=DecodeChanges)
    vectors: bool = False

    def check(self) -> Bundle:
        """Load the model here, on the CPU, so that what is wrong is said before a cluster works.

        Raises:
            MrnnError: as ``Captioner.caption`` has it.
        """
        return replace(self, provider="cpu").open().bundle

    def open(self) -> Captions:
        """Load the model.

        Raises:
            MrnnError: as ``load`` has it.
        """
        # As `mrnn caption` does it: a batch a core. With vectors, batches have to stay in order.
        alone = self.vectors or self.provider not in ("auto", "cpu")
        threads = self.cpus if alone else 1
        captioner = load(self.model, provider=self.provider, threads=threads)
        return Captions(self, captioner, workers=1 if alone else self.cpus)


class Captions:
    """A captioner that gives rows."""

    def __init__(self, recipe: Recipe, captioner: Captioner, *, workers: int) -> None:
        """Check the options.

        Raises:
            MrnnError: as ``Captioner.caption`` has it.
        """
        self._recipe = recipe
        self._workers = workers
        self._encoder = _Recording(captioner.encoder, captioner.encode([]))
        self._captioner = replace(captioner, encoder=self._encoder) if recipe.vectors else captioner
        self(())  # an option that is wrong says so now

    @property
    def bundle(self) -> Bundle:
        """What the model is."""
        return self._captioner.bundle

    def __call__(self, photos: Sequence[ImageSource]) -> pa.Table:
        """Return a row a photo, in order; of one that cannot be read with ``error``."""
        recipe = self._recipe
        captions = list(
            self._captioner.caption(
                photos,
                missing_ok=True,
                workers=self._workers,
                decoder=recipe.decoder,
                reranker=recipe.reranker,
                **recipe.changes,
            )
        )
        if not recipe.vectors:
            return table(captions)
        return table(captions, self._encoder.take())


@dataclass(slots=True)
class _Recording:
    """An encoder that keeps what it returned: the CNN need not run a second time."""

    encoder: Encoder
    blank: EncodedImages
    _kept: list[EncodedImages] = field(default_factory=list)

    @property
    def provider(self) -> str:
        """That of the encoder."""
        return self.encoder.provider

    def encode(self, images: NDArray[np.uint8]) -> EncodedImages:
        """Encode images, uint8 [n, h, w, 3]."""
        encoded = self.encoder.encode(images)
        self._kept.append(encoded)
        return encoded

    def take(self) -> Mapping[str, NDArray[np.float16]]:
        """Return what was kept as columns, float16 [m, d], and forget it."""
        images = joined([self.blank, *self._kept])
        self._kept.clear()
        columns = {**images.inputs, "reference_feature": images.reference_feature}
        return {
            name: np.asarray(array, np.float16).reshape(len(array), math.prod(array.shape[1:]))
            for name, array in columns.items()
        }
