"""States that stay on a device: the same code, with the host in the place of a GPU's memory.

Binding, copying and taking rows are ONNX Runtime's own; only the name of the device is another.
"""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.decoding.greedy import Greedy
from mrnn_runtime.decoding.sample import Sample
from mrnn_runtime.engine.device import DeviceRows, DeviceSession
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.engine.providers import small_model
from mrnn_runtime.engine.sessions import Session
from mrnn_runtime.errors import BundleError
from mrnn_runtime.types import DecodeOptions

PHOTOS = np.random.default_rng(7).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture(params=[False, True], ids=["one state", "a state from the image"])
def bundle(request, make_tiny_bundle):
    return load_bundle(make_tiny_bundle(memory=request.param))


@pytest.fixture
def plain(bundle):
    """The two graphs as the CPU runs them."""
    return load_model(bundle, "cpu", threads=1)


@pytest.fixture
def bound(bundle):
    """The cell with its states bound to the device."""
    _, model = load_model(bundle, "cpu", threads=1)
    session = DeviceSession(model._graph.session, "cpu")
    model._graph = replace(model._graph, session=session)
    return model


def tokens(*ids):
    return np.array(ids, np.int64)


@pytest.mark.parametrize("decoder", [Greedy, Beam, Sample], ids=lambda d: d.__name__)
def test_captions_are_the_same(plain, bound, decoder):
    options = DecodeOptions(beam_size=3, n_best=3, max_length=8, prefix=(4,), no_repeat_ngram=2)
    encoder, model = plain
    images = encoder.encode(PHOTOS)
    decoded = decoder().decode(bound, images, options)
    assert decoded == decoder().decode(model, images, options)


def test_rows_are_taken_as_numpy_takes_them(plain, bound):
    encoder, model = plain
    images = encoder.encode(PHOTOS)
    pairs = [(bound, bound.start(images)), (model, model.start(images))]
    for rows in ([3, 3, 0], [0, 1, 2, 2, 1, 0, 0, 1, 2], [5, 8], [], [0]):
        here, there = (m.step(tokens(*[5] * len(s)), s, 4, full=True) for m, s in pairs)
        for name in ("ids", "values", "log_probs"):
            assert np.array_equal(getattr(here[0], name), getattr(there[0], name)), name
        for name, array in there[1].arrays.items():
            assert isinstance(here[1].arrays[name], DeviceRows)
            assert np.array_equal(np.asarray(here[1].arrays[name]), array), name
        if not rows:
            assert len(here[1].take(tokens())) == 0
            continue
        rows = [row % len(here[1]) for row in rows]
        pairs = [(bound, here[1].take(tokens(*rows))), (model, there[1].take(tokens(*rows)))]


def test_a_step_leaves_the_state_before_it_alone(plain, bound):
    encoder, _ = plain
    state = bound.start(encoder.encode(PHOTOS))
    first, after = bound.step(tokens(*[1] * 5), state, 3)
    second, _ = bound.step(tokens(*[5] * 5), after, 3)
    bound.step(tokens(*[6] * 5), state, 3)
    again, _ = bound.step(tokens(*[1] * 5), state, 3)
    repeated, _ = bound.step(tokens(*[5] * 5), after, 3)
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(second.values, repeated.values)


def test_shapes_are_powers_of_two(plain, bound):
    encoder, _ = plain
    state = bound.start(encoder.encode(PHOTOS))
    for rows in ([0, 1, 2], [1], [0] * 9):
        for array in state.take(tokens(*rows)).arrays.values():
            size = array.value.shape()[0]
            assert size >= len(rows)
            assert size & (size - 1) == 0


def test_what_fails_is_named(plain, bound):
    encoder, _ = plain
    state = bound.start(encoder.encode(PHOTOS))
    name = next(iter(state.arrays))
    state.arrays[name] = np.zeros((5, 3), np.float64)
    with pytest.raises(BundleError, match=r"cell\.onnx failed on CPUExecutionProvider"):
        bound.step(tokens(*[1] * 5), state, 3)


def test_the_graph_that_takes_rows_is_a_valid_model():
    for dimensions in (1, 2, 4):
        facts = (1, dimensions)
        model = small_model("Gather", {"x": facts, "rows": (7, 1)}, facts)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def test_the_cpu_binds_nothing(plain):
    encoder, model = plain
    state = model.start(encoder.encode(PHOTOS))
    _, after = model.step(tokens(*[1] * 5), state, 3)
    assert isinstance(model._graph.session, Session)
    assert {type(array) for s in (state, after) for array in s.arrays.values()} == {np.ndarray}
