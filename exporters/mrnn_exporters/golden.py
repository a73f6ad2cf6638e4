"""Golden vectors of a bundle: made-up images and tokens, and what the graphs make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mrnn_exporters.tokenizer import SPECIALS
from mrnn_runtime.build import record_golden

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_runtime import Bundle, Captioner

GOLDEN = "golden.npz"


def save_golden(captioner: Captioner, folder: Path) -> None:
    """Write golden.npz into the folder of the bundle that was loaded."""
    golden = record_golden(captioner.encoder, captioner.model, *_inputs(captioner.bundle))
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)


def _inputs(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return two images uint8 [2, h, w, 3] in soft colours, and tokens int64 [8, 2]."""
    rng = np.random.default_rng(0)
    height, width = bundle.preprocess.height, bundle.preprocess.width
    rows = np.linspace(0, 2 * np.pi, height)[:, None, None]
    columns = np.linspace(0, 2 * np.pi, width)[None, :, None]
    phase = rng.uniform(0, 2 * np.pi, (2, 2, 1, 1, 3))
    waves = np.sin(rows + phase[:, 0]) * np.cos(2 * columns + phase[:, 1])
    # In few shades, which take little room in the file.
    images = np.round(127.5 + 127.5 * np.round(waves * 6) / 6).astype(np.uint8)
    words = rng.integers(len(SPECIALS), bundle.vocabulary_size, (8, 2))
    words[0] = bundle.tokens.bos
    return images, words
