"""Neighbours against brute force; nothing may depend on who else asks."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrnn_runtime.errors import UsageError
from mrnn_runtime.reranking import neighbours
from mrnn_runtime.reranking.neighbours import nearest, rounded


def random_features(count, size, seed=0):
    return np.tanh(np.random.default_rng(seed).standard_normal((count, size))).astype(np.float32)


def brute_force(stored, photo, k, leave_out=0.0):
    """Measure every distance in float64; sort by distance, then row."""
    mine = rounded(photo[np.newaxis], stored.numbers.dtype.name)
    one = mine.numbers[0] * mine.steps[0].astype(np.float64)
    distances = [
        np.sqrt(np.einsum("d,d->", *[row * step.astype(np.float64) - one] * 2))
        for row, step in zip(stored.numbers, stored.steps, strict=True)
    ]
    least = np.sqrt(np.einsum("d,d->", one, one)) * leave_out
    ranked = sorted((d, i) for i, d in enumerate(distances) if d >= least)[:k]
    return [i for _, i in ranked], [d for d, _ in ranked]


def as_lists(neighbours):
    return [(rows.tolist(), distances.tolist()) for rows, distances in neighbours]


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@given(data=st.data())
def test_neighbours_are_those_of_brute_force(dtype, data):
    count, size = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 40))
    features = random_features(count, size, data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):  # many equal distances
        features = np.round(features)
    features[data.draw(st.lists(st.integers(0, count - 1)))] = features[0]
    photos = np.concatenate([features[:3], random_features(3, size, 7)])
    k, leave_out = data.draw(st.integers(1, 70)), data.draw(st.sampled_from([0.0, 0.01, 0.9]))
    stored = rounded(features, dtype)
    actual = as_lists(nearest(stored, photos, k, leave_out=leave_out))
    assert actual == [brute_force(stored, photo, k, leave_out) for photo in photos]


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("size", [7, 256, 1280])
def test_no_bit_depends_on_who_else_asks(dtype, size):
    stored = rounded(random_features(1000, size), dtype)
    photos = random_features(37, size, seed=1)
    together = as_lists(nearest(stored, photos, 60))
    assert together == [as_lists(nearest(stored, photo[np.newaxis], 60))[0] for photo in photos]
    assert together[::-1] == as_lists(nearest(stored, photos[::-1], 60))
    assert together[5:9] == as_lists(nearest(stored, photos[5:9], 60))


def test_of_equal_distances_the_lower_row_comes_first():
    features = np.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0.5, 0]], np.float32)
    ((rows, distances),) = nearest(rounded(features, "int8"), np.zeros((1, 2), np.float32), 4)
    assert rows.tolist() == [4, 0, 1, 2]
    assert distances == pytest.approx([0.5, 1, 1, 1])


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_photo_is_at_distance_0_of_itself_and_can_be_left_out(dtype):
    features = random_features(50, 64)
    again = features[[3, 4]] * (1 + 1e-5 * random_features(2, 64, seed=2))  # another device
    stored = rounded(features, dtype)
    for photos in (features[[3, 4]], again):
        for row, (rows, distances) in zip((3, 4), nearest(stored, photos, 1), strict=True):
            assert (rows.tolist(), distances[0] < 0.01) == ([row], True)
        left = nearest(stored, photos, 50, leave_out=0.01)
        for row, (rows, _) in zip((3, 4), left, strict=True):
            assert sorted(rows.tolist()) == [i for i in range(50) if i != row]
    assert nearest(stored, features[:1], 1)[0][1][0] == 0


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_memory_map_read_in_blocks_gives_the_same(dtype, tmp_path, monkeypatch):
    stored = rounded(random_features(100, 16), dtype)
    photos = random_features(5, 16, seed=1)
    expected = as_lists(nearest(stored, photos, 30))
    np.save(tmp_path / "features.npy", stored.numbers)
    monkeypatch.setattr(neighbours, "_NUMBERS", 16 * 7)
    monkeypatch.setattr(neighbours, "_MAPPED", 16 * 30)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    actual = nearest(dataclasses.replace(stored, numbers=mapped), photos, 30)
    assert as_lists(actual) == expected


def test_rounding_is_fine_enough():
    features = random_features(20, 100) * 5
    features[7] = 0
    for dtype, error in (("int8", 5 / 127 / 2), ("float16", 5 * 2**-11)):
        stored = rounded(features, dtype)
        assert stored.numbers.dtype == dtype
        actual = stored.exact(np.arange(20))
        np.testing.assert_allclose(actual, features, rtol=0, atol=error)
        np.testing.assert_allclose(stored.squares, (actual**2).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(wrong):
    for dtype in ("int8", "float16"):
        with pytest.raises(UsageError, match="not finite"):
            rounded(np.array([[1, wrong]], np.float32), dtype)
        with pytest.raises(UsageError, match="not finite"):
            nearest(
                rounded(np.eye(2, dtype=np.float32), dtype), np.array([[1, wrong]], np.float32), 1
            )
    with pytest.raises(UsageError, match="not finite as float16"):
        rounded(np.array([[1e6]], np.float32), "float16")
    with pytest.raises(UsageError, match="unknown feature dtype"):
        rounded(np.eye(2, dtype=np.float32), "int4")
