"""A small run of the harness; the large one is a command."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location(
    "kill_resume", Path(__file__).with_name("kill_resume.py")
)
harness = importlib.util.module_from_spec(spec)
spec.loader.exec_module(harness)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_every_photo_is_there_once(tiny_bundle, tmp_path, form):
    random = np.random.default_rng(0)
    for i in range(600):
        pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:03}.png")
    wrong = harness.check(tmp_path, model=str(tiny_bundle), kills=2, seed=0, form=form)
    assert not wrong, wrong
