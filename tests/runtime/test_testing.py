import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime.errors import UsageError
from mrnn_runtime.testing import TableModel, encoded_images


def after(model, images, *tokens):
    """The distribution after feeding these tokens to every image, float32 [n, V]."""
    state = model.start(images)
    for token in tokens:
        fed = np.full(len(images), token, dtype=np.int64)
        scores, state = model.step(fed, state, 0, full=True)
    return scores.log_probs


def test_images_of_a_seed_are_the_same_and_of_another_are_not():
    few, many = encoded_images(2), encoded_images(5)
    assert len(many) == 5
    assert np.array_equal(few.inputs["image_term"], many.inputs["image_term"][:2])
    assert np.array_equal(few.reference_feature, many.reference_feature[:2])
    assert not np.array_equal(few.reference_feature, encoded_images(2, seed=1).reference_feature)
    assert many.inputs["image_term"].dtype == many.reference_feature.dtype == np.float32
    assert encoded_images(1, feature_size=7).reference_feature.shape == (1, 7)


@given(
    size=st.integers(5, 30),
    levels=st.sampled_from([0, 1, 3]),
    top_k=st.integers(0, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_the_best_tokens_are_those_of_the_whole_distribution(size, levels, top_k, seed):
    model = TableModel(vocabulary_size=size, levels=levels, seed=seed)
    images = encoded_images(3)
    scores, state = model.step(np.full(3, 1), model.start(images), top_k, full=True)
    assert scores.log_probs.shape == (3, size)
    assert scores.log_probs.dtype == scores.values.dtype == np.float32
    assert scores.ids.dtype == np.int64
    assert len(state) == 3
    assert np.exp(scores.log_probs.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-6)
    for row, ids, values in zip(scores.log_probs, scores.ids, scores.values, strict=True):
        ranked = sorted(range(size), key=lambda token: (-row[token], token))
        assert ids.tolist() == ranked[:top_k]
        assert values.tolist() == [row[token] for token in ids]


def test_the_whole_distribution_comes_on_demand_only():
    model = TableModel()
    scores, _ = model.step(np.array([1]), model.start(encoded_images(1)), 3)
    assert scores.log_probs is None


def test_rows_do_not_depend_on_their_neighbours():
    model = TableModel(vocabulary_size=50)
    images = encoded_images(9)
    together = after(model, images, 1, 7, 9)
    for i in range(9):
        assert np.array_equal(after(model, images.take(np.array([i])), 1, 7, 9)[0], together[i])


def test_no_images_have_no_rows():
    model = TableModel()
    scores, state = model.step(np.empty(0, dtype=np.int64), model.start(encoded_images(0)), 3)
    assert (len(state), scores.ids.shape) == (0, (0, 3))


def test_a_state_moves_with_its_rows():
    model = TableModel()
    _, state = model.step(np.array([4, 5, 6]), model.start(encoded_images(3)), 0)
    tokens = np.array([7, 8, 9])
    rows = np.array([2, 0, 2])
    scores, _ = model.step(tokens, state, 4)
    moved, _ = model.step(tokens[rows], state.take(rows), 4)
    assert np.array_equal(moved.values, scores.values[rows])


def test_what_the_distribution_depends_on():
    images = encoded_images(2)
    model = TableModel()
    base = after(model, images, 1, 5, 6)
    assert not np.array_equal(base[0], base[1])
    assert not np.array_equal(base, after(model, images, 1, 4, 6))
    assert not np.array_equal(base, after(model, images, 1, 6))
    assert not np.array_equal(base, after(TableModel(seed=1), images, 1, 5, 6))

    short = TableModel(history=False)
    assert np.array_equal(after(short, images, 1, 5, 6), after(short, images, 1, 4, 6))
    assert not np.array_equal(after(short, images, 1, 5, 6), after(short, images, 1, 5, 5))
    assert not np.array_equal(after(short, images, 1, 5, 6), after(short, images, 1, 6))


def test_an_end_bias_makes_the_end_sign_more_probable():
    images = encoded_images(4)
    plain, biased = after(TableModel(), images, 1), after(TableModel(end_bias=3.0), images, 1)
    assert (biased[:, 2] > plain[:, 2]).all()


@pytest.mark.parametrize(
    ("tokens", "top_k", "message"),
    [
        (np.array([-1, 4]), 1, "must lie in 0..9"),
        (np.array([4, 10]), 1, "must lie in 0..9"),
        (np.array([4]), 1, r"int64 \[2\], not int64 \[1\]"),
        (np.array([4, 4], dtype=np.int32), 1, "not int32"),
        (np.array([4, 4]), -1, "top_k"),
    ],
)
def test_what_a_decoder_must_not_ask(tokens, top_k, message):
    model = TableModel()
    with pytest.raises(UsageError, match=message):
        model.step(tokens, model.start(encoded_images(2)), top_k)
