"""Features of photos and their cache, with a small backbone that really is exported and run."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mrnn_exporters import datasets, features
from mrnn_runtime.errors import ImageError, MrnnError, UsageError
from mrnn_runtime.images import read_image
from mrnn_runtime.types import Preprocess

PREPROCESS = Preprocess(height=12, width=16)


class Net(nn.Module):
    """The left half's mean colour, scaled: a feature that a mirror changes."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, :8].float().mean(dim=(1, 2)) * self.scale


@dataclass(frozen=True)
class Small:
    module: nn.Module
    weights_id: str = "one"
    feature_size: int = 3
    preprocess: Preprocess = PREPROCESS


@pytest.fixture
def backbone() -> Small:
    return Small(Net(0.5))


def computed(backbone: Small, paths: list[Path], view: str, cache: Path) -> np.ndarray:
    """The features as one array, NaN where one is missing."""
    rows = features.features(backbone, paths, view, cache)
    absent = np.full(backbone.feature_size, np.nan, np.float16)
    return np.stack([absent if gone else rows[i] for i, gone in enumerate(rows.missing)])


def expected(backbone: Small, images: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return backbone.module(torch.from_numpy(np.stack(images))).numpy().astype(np.float16)


def test_plain_and_mirror_are_what_torch_makes_of_the_runtimes_pixels(
    backbone: Small, make_photos, tmp_path: Path
) -> None:
    paths = make_photos(tmp_path / "photos", 7)
    images = [read_image(path, PREPROCESS) for path in paths]
    plain = computed(backbone, paths, "plain", tmp_path / "cache")
    mirror = computed(backbone, paths, "mirror", tmp_path / "cache")
    assert plain.dtype == np.float16
    np.testing.assert_allclose(plain, expected(backbone, images), rtol=1e-3)
    flipped = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    np.testing.assert_allclose(mirror, expected(backbone, flipped), rtol=1e-3)
    assert not np.allclose(plain, mirror)


def test_the_second_call_reads_the_file(backbone: Small, make_photos, tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 3)
    cache = tmp_path / "cache"
    first = computed(backbone, paths, "plain", cache)
    # Another net under the same identity: only a cache can give the old values.
    assert np.array_equal(computed(Small(Net(2.0)), paths, "plain", cache), first)
    assert not np.array_equal(
        computed(Small(Net(2.0), weights_id="two"), paths, "plain", cache), first
    )
    assert not features.features(backbone, paths, "plain", cache)[0].flags.writeable
    assert not list(cache.rglob("*.part"))


def test_a_photo_more_costs_one_photo(backbone: Small, make_photos, tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 5)
    cache = tmp_path / "cache"
    first = computed(backbone, paths[:3], "plain", cache)
    # Another net under the same identity shows which photos are computed at this call.
    shutil.rmtree(cache / "backbones")
    values = computed(Small(Net(2.0)), paths, "plain", tmp_path / "cache")
    assert np.array_equal(values[:3], first)
    other = computed(Small(Net(2.0)), paths, "plain", tmp_path / "empty")
    assert np.array_equal(values[3:], other[3:])


def test_what_was_computed_before_a_failure_stays(
    backbone: Small, make_photos, tmp_path: Path
) -> None:
    paths = make_photos(tmp_path / "photos", 40)
    endless = Image.fromarray(np.full((20, 24, 3), 255, np.uint8))
    endless.save(paths[39])
    with pytest.raises(MrnnError, match="float16"):  # of the white photo, the last one
        computed(Small(Net(258.0)), paths, "plain", tmp_path / "cache")
    kept = computed(Small(Net(2.0), "one"), paths[:20], "plain", tmp_path / "cache")
    fresh = computed(Small(Net(258.0)), paths[:20], "plain", tmp_path / "empty")
    assert np.array_equal(kept, fresh)


def test_an_entry_that_is_damaged_is_made_again(
    backbone: Small, make_photos, tmp_path: Path
) -> None:
    paths = make_photos(tmp_path / "photos", 5)
    cache = tmp_path / "cache"
    first = computed(backbone, paths, "plain", cache)
    (shard,) = cache.glob("features/*/*.shard")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert np.array_equal(computed(backbone, paths, "plain", cache), first)
    assert shard.stat().st_size == len(content) * 6 // 5


def test_two_runs_compute_a_feature_once(backbone: Small, make_photos, tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 30)
    alone = computed(backbone, paths, "plain", tmp_path / "alone")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(computed, backbone, paths, "plain", tmp_path / "two") for _ in "ab"]
        assert all(np.array_equal(run.result(), alone) for run in runs)
    sizes = [
        next(tmp_path.glob(f"{one}/features/*/*.shard")).stat().st_size for one in ("alone", "two")
    ]
    assert sizes[0] == sizes[1]


def test_the_key_knows_the_photos_and_the_preprocess(
    backbone: Small, make_photos, tmp_path: Path
) -> None:
    paths = make_photos(tmp_path / "photos", 3)
    cache = tmp_path / "cache"
    first = computed(backbone, paths, "plain", cache)
    assert np.array_equal(computed(backbone, paths[::-1], "plain", cache), first[::-1])
    higher = replace(backbone, preprocess=replace(PREPROCESS, height=24))
    assert not np.array_equal(computed(higher, paths, "plain", cache), first)
    Image.new("RGB", (20, 24), "red").save(paths[1])
    os.utime(paths[1], ns=(1, 1))
    after = computed(backbone, paths, "plain", cache)
    assert np.array_equal(after[[0, 2]], first[[0, 2]])
    assert not np.array_equal(after[1], first[1])


def test_the_key_does_not_know_the_folder(backbone: Small, make_photos, tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 3)
    computed(backbone, paths, "plain", tmp_path / "cache")
    (tmp_path / "photos").rename(tmp_path / "moved")
    moved = [tmp_path / "moved" / path.name for path in paths]
    computed(backbone, moved, "plain", tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1


@pytest.mark.parametrize("place", ["top", "middle", "bottom"])
def test_photos_of_one_name_size_and_time_are_told_apart(
    backbone: Small, tmp_path: Path, place: str
) -> None:
    """As BMPs in two folders are that came out of one archive."""
    paths = [tmp_path / folder / "1.bmp" for folder in "ab"]
    rows = {"top": slice(2), "middle": slice(99, 101), "bottom": slice(198, 200)}[place]
    for path, shade in zip(paths, (90, 200), strict=True):
        pixels = np.zeros((200, 240, 3), np.uint8)
        pixels[rows] = shade
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(1, 1))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    one, other = computed(backbone, paths, "plain", tmp_path / "cache")
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_crops_are_fixed_windows_of_the_photo(make_photos, tmp_path: Path, resize: str) -> None:
    (path,) = make_photos(tmp_path, 1)
    # Brightness is the column, so a window's values say where it lay.
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    Image.fromarray(ramp).save(path)
    size = Preprocess(height=100, width=100, resize=resize)
    views = {f"crop{i}": features.read_view(path, size, f"crop{i}") for i in range(1, 9)}
    for view, image in views.items():
        assert image.shape == (100, 100, 3)
        assert np.array_equal(image, features.read_view(path, size, view))
        width = abs(int(image[50, 0, 0]) - int(image[50, -1, 0]))
        assert 200 * 0.73 < width < 200 * 0.96
    assert len({image.tobytes() for image in views.values()}) == 8
    assert len({image[50, 0, 0] < image[50, -1, 0] for image in views.values()}) == 2


def test_a_few_broken_photos_are_nan_and_named(
    backbone: Small, make_photos, tmp_path: Path, caplog
) -> None:
    paths = make_photos(tmp_path / "photos", 150)
    paths[77].write_bytes(b"no photo")
    for _ in range(2):  # computed, then read
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            values = computed(backbone, paths, "plain", tmp_path / "cache")
        assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == [77]
        assert "1 of 150: 77.png" in caplog.text


def test_many_broken_photos_are_an_error(backbone: Small, make_photos, tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 5)
    paths[4].unlink()
    with pytest.raises(UsageError, match=r"1 of 5: 4\.png"):
        computed(backbone, paths, "plain", tmp_path / "cache")
    with pytest.raises(ImageError):
        features.read_view(paths[4], PREPROCESS, "crop1")


@pytest.mark.parametrize("scale", [1e6, float("nan")])
def test_what_does_not_fit_float16_is_refused(make_photos, tmp_path: Path, scale: float) -> None:
    paths = make_photos(tmp_path / "photos", 2)
    with pytest.raises(MrnnError, match=r"feature of 0\.png .* float16"):
        computed(Small(Net(scale)), paths, "plain", tmp_path / "cache")


@pytest.mark.parametrize("view", ["crop", "flip", "crop-1", "plain "])
def test_an_unknown_view_is_a_usage_error(backbone: Small, tmp_path: Path, view: str) -> None:
    with pytest.raises(UsageError, match="unknown view"):
        features.features(backbone, [], view, tmp_path)


def test_photos_inside_of_tars_have_features(backbone: Small, make_photos, tmp_path: Path) -> None:
    """Tars may hold the same names: 000.png in each of them, say, and in several folders of one."""
    paths = make_photos(tmp_path / "photos", 4)
    for name, pair in (("a", paths[:2]), ("b", paths[2:])):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for i, path in enumerate(pair):
                tar.add(path, f"{i}/0.png")
                (tmp_path / "words").write_text("A photo .")
                tar.add(tmp_path / "words", f"{i}/0.txt")
    examples = datasets.read("webdataset/all", tmp_path, "train")
    inside = [example.path for example in examples]
    cache = tmp_path / "cache"
    for view in ("plain", "mirror"):
        alone = computed(backbone, paths, view, tmp_path / "alone")
        for _ in range(2):
            assert np.array_equal(computed(backbone, inside, view, cache), alone)
