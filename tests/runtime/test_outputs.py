"""Whether all numbers of a step are finite, which is asked at every step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mrnn_runtime.decoding.constraints import all_finite

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


@given(FLOATS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(max_side=4))))
def test_it_is_what_isfinite_says(numbers):
    assert all_finite(numbers) == np.isfinite(numbers).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_whose_squares_are_too_large_are_finite(kind):
    largest = np.full((3, 5), np.finfo(kind).max, kind)
    assert all_finite(largest)
    assert all_finite(-largest[:, ::2])
    largest[2, 4] = np.nan
    assert not all_finite(largest)
    assert all_finite(np.empty((0, 4), kind))
