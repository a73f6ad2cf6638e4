"""What a bundle's encoder makes of the photos of a data set, on all cores."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mrnn_exporters import datasets
from mrnn_exporters.progress import on_all_cores
from mrnn_runtime import ImageError, read_image
from mrnn_runtime.build import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_exporters.datasets import Example
    from mrnn_runtime import Captioner, EncodedImages

PHOTOS = 8


def encode(
    captioner: Captioner, examples: Sequence[Example]
) -> tuple[list[Example], EncodedImages]:
    """Encode photos.

    Returns:
        The examples whose photos can be read, and their encoded images.

    Raises:
        UsageError: more than 1 % of the photos cannot be read.
    """
    chunks = [examples[i : i + PHOTOS] for i in range(0, len(examples), PHOTOS)]
    done = list(on_all_cores(partial(_encode, captioner), chunks, "photos"))
    lost = [example.path for _, broken, _ in done for example in broken]
    datasets.refuse_many("photos that cannot be read", lost, len(examples))
    parts = [images for _, _, images in done]
    kept = [example for some, _, _ in done for example in some]
    return kept, joined(parts)


def _encode(
    captioner: Captioner, examples: Sequence[Example]
) -> tuple[list[Example], list[Example], EncodedImages]:
    preprocess = captioner.bundle.preprocess
    kept, broken, pixels = [], [], []
    for example in examples:
        try:
            pixels.append(read_image(example.image, preprocess))
            kept.append(example)
        except ImageError:
            broken.append(example)
    none = np.empty((0, preprocess.height, preprocess.width, 3), np.uint8)
    return kept, broken, captioner.encoder.encode(np.stack(pixels) if pixels else none)
