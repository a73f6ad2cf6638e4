"""Small files that stand for gigabytes take little, and leave the photos beside them alone."""

import sys

import pytest
from bombs import bombs, peak, saved, write

from mrnn_runtime.errors import ImageError
from mrnn_runtime.images import read_image
from mrnn_runtime.types import Preprocess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory"),
]


def test_hostile_files_among_the_photos_take_little(tiny_bundle, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(saved("JPEG"))
    write(tmp_path, tail=2**31)
    code, most = peak(tmp_path, tiny_bundle)
    assert code == 1
    assert most < 500


def test_each_is_an_error():
    taken = []
    for name, content in bombs().items():
        try:
            read_image(content, Preprocess(16, 16))
            taken.append(name)
        except ImageError:
            pass
    assert not taken
