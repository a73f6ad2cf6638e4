"""What every model promises, as checks; each takes the component's target, ``() -> Path``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime import load, load_bundle
from mrnn_runtime.build import replay_golden
from mrnn_runtime.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable

    Find = Callable[[], Path]


def it_names_the_folder_of_a_bundle(find: Find) -> None:
    """Whole, unchanged and of a format that this runtime reads, with a model card."""
    require(isinstance(find(), Path), f"{find()!r} is no Path")
    require("MODEL_CARD.md" in load_bundle(find()).files, "it has no MODEL_CARD.md")


def it_computes_what_it_computed_at_export(find: Find) -> None:
    """As ``mrnn verify`` finds out."""
    model = load(find(), provider="cpu", threads=1)
    report = replay_golden(model.bundle, model.encoder, model.model)
    require(report.ok, f"differences {report.differences}, allowed {report.tolerance}")


def it_captions_images(find: Find) -> None:
    """In a batch as alone."""
    model = load(find(), provider="cpu", threads=1)
    with TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        for name in ("a.ppm", "b.ppm"):
            pixels = random.integers(0, 256, 64 * 48 * 3, np.uint8).tobytes()
            Path(folder, name).write_bytes(b"P6 64 48 255\n" + pixels)
        together = list(model.caption(folder, batch_size=2))
        alone = list(model.caption(folder, batch_size=1))
    for caption in together:
        require(caption.text and not caption.error, f"no caption: {caption.error}")
    require(together == alone, f"{together} in a batch, {alone} alone")


CHECKS: tuple[Callable[[Find], None], ...] = (
    it_names_the_folder_of_a_bundle,
    it_computes_what_it_computed_at_export,
    it_captions_images,
)
