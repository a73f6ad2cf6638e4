"""What the tests of the exporters share: where the real corpus is, and photos made up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def flickr8k_root() -> Path:
    """The folder of the real Flickr8k, which the project does not hold."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "flickr8k"
    root = Path(os.environ.get("MRNN_FLICKR8K", beside))
    if not (root / "Flickr8k.token.txt").is_file():
        pytest.skip("no Flickr8k here; MRNN_FLICKR8K names its folder")
    return root


@pytest.fixture
def make_photos() -> Callable[..., list[Path]]:
    """A function that writes different small photos into a folder."""

    def make(folder: Path, count: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(5)
        paths = [folder / f"{i}.png" for i in range(count)]
        for path in paths:
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
        return paths

    return make
