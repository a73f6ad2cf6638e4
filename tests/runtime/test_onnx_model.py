"""The two graphs as an encoder and a step model: the contract, to the bit."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrnn_runtime.bundle.loading import load_bundle, write_manifest
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.errors import BundleError, ProviderError, UsageError

PHOTOS = np.random.default_rng(7).integers(0, 256, (6, 16, 16, 3), np.uint8)
VOCABULARY = 12


@pytest.fixture(scope="module", params=["one state", "a state from the image", "tied words"])
def model(request, make_tiny_bundle):
    """An encoder and a step model, of each kind that a bundle can have."""
    memory, tied = "image" in request.param, "tied" in request.param
    return load_model(load_bundle(make_tiny_bundle(memory=memory, tied=tied)), "cpu", threads=1)


@pytest.fixture(scope="module")
def plain(tiny_bundle):
    return load_model(load_bundle(tiny_bundle), "cpu", threads=1)


def same_bits(one, other):
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()


def tokens(*ids):
    return np.array(ids, np.int64)


def walk(step_model, images, steps, *, top_k=5, full=True):
    """Feed rows of tokens, one a step; return the scores of each step and the last state."""
    state, scores = step_model.start(images), []
    for row in steps:
        step, state = step_model.step(np.asarray(row), state, top_k, full=full)
        scores.append(step)
    return scores, state


def rewrite(folder, change):
    """Change the manifest of a bundle, and its checksums."""
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    write_manifest(folder, manifest)


class TestEncoder:
    @given(images=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), *map(st.just, (16, 16, 3)))))
    @settings(max_examples=25, deadline=None)
    def test_a_batch_is_its_images(self, model, images):
        encoder, _ = model
        batch = encoder.encode(images)
        for i in range(len(images)):
            alone = encoder.encode(images[i : i + 1])
            same_bits(batch.reference_feature[i : i + 1], alone.reference_feature)
            for name, array in alone.inputs.items():
                same_bits(batch.inputs[name][i : i + 1], array)

    def test_what_comes_out(self, model):
        encoder, _ = model
        encoded = encoder.encode(PHOTOS)
        assert len(encoded) == len(PHOTOS)
        assert encoder.provider == "CPUExecutionProvider"
        assert set(encoded.inputs) <= {"image_term", "first_memory"}
        # Different photos are different to the model.
        assert len(np.unique(encoded.inputs["image_term"], axis=0)) == len(PHOTOS)

    def test_no_images(self, model):
        encoder, _ = model
        some, none = encoder.encode(PHOTOS), encoder.encode(PHOTOS[:0])
        assert len(none) == 0
        same_bits(none.reference_feature, some.reference_feature[:0])
        assert none.inputs.keys() == some.inputs.keys()
        for name, array in none.inputs.items():
            same_bits(array, some.inputs[name][:0])

    @pytest.mark.parametrize(
        "images",
        [PHOTOS[0], PHOTOS[:, :8], PHOTOS.astype(np.float32), PHOTOS[..., :1], np.uint8(3)],
        ids=["one image without n", "too small", "floats", "grey", "a number"],
    )
    def test_images_of_another_kind(self, plain, images):
        with pytest.raises(UsageError, match=r"takes image uint8 \[n, 16, 16, 3\]"):
            plain[0].encode(images)


class TestStep:
    @given(data=st.data(), rows=st.lists(st.integers(0, len(PHOTOS) - 1), min_size=1, max_size=12))
    @settings(max_examples=40, deadline=None)
    def test_rows_do_not_see_each_other(self, model, data, rows):
        encoder, step_model = model
        images = encoder.encode(PHOTOS)
        steps = data.draw(hnp.arrays(np.int64, (3, len(rows)), elements=st.integers(0, 11)))
        top_k, full = data.draw(st.integers(0, 14)), data.draw(st.booleans())
        together, state = walk(
            step_model, images.take(tokens(*rows)), steps, top_k=top_k, full=full
        )
        for r, image in enumerate(rows):
            own = images.take(tokens(image))
            alone, own_state = walk(step_model, own, steps[:, r : r + 1], top_k=top_k, full=full)
            for one, other in zip(together, alone, strict=True):
                same_bits(one.ids[r : r + 1], other.ids)
                same_bits(one.values[r : r + 1], other.values)
                if full:
                    same_bits(one.log_probs[r : r + 1], other.log_probs)
            for name, array in own_state.arrays.items():
                same_bits(state.arrays[name][r : r + 1], array)

    @given(rows=st.lists(st.integers(0, len(PHOTOS) - 1), min_size=1, max_size=9))
    @settings(max_examples=40, deadline=None)
    def test_taking_rows_is_as_if_they_had_been_alone(self, model, rows):
        encoder, step_model = model
        everything, chosen = encoder.encode(PHOTOS), tokens(*rows)
        first, second = np.array([1] * 6), np.array([4, 5, 6, 7, 8, 9])
        _, state = walk(step_model, everything, [first, second])
        taken = state.take(chosen)
        _, direct = walk(step_model, everything.take(chosen), [first[chosen], second[chosen]])
        assert len(taken) == len(direct) == len(rows)
        assert taken.arrays.keys() == direct.arrays.keys()
        for name, array in taken.arrays.items():
            same_bits(array, direct.arrays[name])

    def test_rows_may_not_fill_the_memory(self, plain, monkeypatch):
        encoder, step_model = plain
        state = step_model.start(encoder.encode(PHOTOS))
        monkeypatch.setenv("MRNN_MEMORY_MB", "1")
        assert len(state.take(tokens(*[0] * 1000))) == 1000
        with pytest.raises(BundleError, match="the states of 50000 hypotheses take"):
            state.take(tokens(*[0] * 50_000))

    def test_no_rows_may_be_taken(self, model):
        encoder, step_model = model
        assert len(step_model.start(encoder.encode(PHOTOS)).take(tokens())) == 0

    @pytest.mark.parametrize("top_k", [0, 1, 2, 5, 11, 12, 99])
    def test_the_best_are_the_best(self, model, top_k):
        encoder, step_model = model
        steps = np.random.default_rng(3).integers(0, 12, (4, len(PHOTOS)))
        for scores in walk(step_model, encoder.encode(PHOTOS), steps, top_k=top_k)[0]:
            assert np.allclose(np.exp(scores.log_probs).sum(axis=1), 1, atol=1e-5)
            # A stable sort leaves the lower id first where scores are equal.
            order = np.argsort(-scores.log_probs, axis=1, kind="stable")[:, :top_k]
            same_bits(scores.ids, order)
            same_bits(scores.values, np.take_along_axis(scores.log_probs, order, axis=1))

    def test_only_what_is_asked_for(self, plain):
        encoder, step_model = plain
        images = encoder.encode(PHOTOS[:2])
        (lean,), _ = walk(step_model, images, [[1, 1]], top_k=3, full=False)
        (whole,), _ = walk(step_model, images, [[1, 1]], top_k=0, full=True)
        assert lean.log_probs is None
        assert lean.ids.shape == lean.values.shape == (2, 3)
        assert whole.ids.shape == whole.values.shape == (2, 0)
        assert whole.log_probs.shape == (2, VOCABULARY)

    def test_a_step_leaves_the_state_before_it_alone(self, model):
        encoder, step_model = model
        state = step_model.start(encoder.encode(PHOTOS))
        first, _ = step_model.step(tokens(*[1] * 6), state, 3)
        step_model.step(tokens(*[5] * 6), state, 3)
        again, _ = step_model.step(tokens(*[1] * 6), state, 3)
        same_bits(first.values, again.values)

    def test_no_rows(self, model):
        encoder, step_model = model
        images = encoder.encode(PHOTOS[:0])
        (scores,), state = walk(step_model, images, [tokens()], top_k=3)
        assert len(state) == 0
        assert scores.ids.shape == scores.values.shape == (0, 3)
        assert scores.log_probs.shape == (0, VOCABULARY)
        assert (scores.ids.dtype, scores.values.dtype) == (np.int64, np.float32)

    @pytest.mark.parametrize(
        ("fed", "complaint"),
        [
            (tokens(1, 12), "ids below 12"),
            (tokens(1, -1), "ids below 12"),
            (tokens(1), r"tokens must be int64 \[2\]"),
            (tokens(1, 1, 1), r"tokens must be int64 \[2\]"),
            (tokens(1, 1).astype(np.int32), r"tokens must be int64 \[2\], not int32"),
            (tokens(1, 1)[:, None], r"tokens must be int64 \[2\]"),
        ],
    )
    def test_tokens_that_are_none(self, plain, fed, complaint):
        encoder, step_model = plain
        state = step_model.start(encoder.encode(PHOTOS[:2]))
        with pytest.raises(UsageError, match=complaint):
            step_model.step(fed, state, 3)

    def test_a_negative_number_of_tokens(self, plain):
        encoder, step_model = plain
        state = step_model.start(encoder.encode(PHOTOS[:1]))
        with pytest.raises(UsageError, match="top_k"):
            step_model.step(tokens(1), state, -1)

    def test_the_second_state_starts_from_the_image(self, make_tiny_bundle):
        encoder, step_model = load_model(load_bundle(make_tiny_bundle(memory=True)), "cpu")
        images = encoder.encode(PHOTOS)
        state = step_model.start(images)
        same_bits(state.arrays["memory"], images.inputs["first_memory"])
        assert not state.arrays["state"].any()

    def test_facts(self, plain, tiny_bundle):
        bundle = load_bundle(tiny_bundle)
        assert plain[1].tokens == bundle.tokens
        assert plain[1].vocabulary_size == VOCABULARY
        assert plain[1].provider == "CPUExecutionProvider"


class TestLoad:
    @pytest.mark.parametrize("change", ["wider state", "another name", "another type"])
    def test_a_graph_that_is_not_what_the_manifest_says(self, tiny_copy, change):
        def lie(manifest):
            cell, encoder = manifest["cell"], manifest["encoder"]
            if change == "wider state":
                cell["inputs"][2]["shape"] = cell["outputs"][3]["shape"] = ["r", 7]
            elif change == "another name":
                cell["inputs"][2]["name"] = manifest["state"][0]["input"] = "memory"
            else:
                cell["inputs"][1]["dtype"] = encoder["outputs"][0]["dtype"] = "float16"

        rewrite(tiny_copy, lie)
        with pytest.raises(BundleError, match=r"bundle\.json says") as caught:
            load_model(load_bundle(tiny_copy), "cpu")
        assert caught.value.hint

    def test_scores_that_are_not_finite(self, tiny_copy):
        import onnx

        graph = onnx.load_model(tiny_copy / "cell.onnx")
        for tensor in graph.graph.initializer:
            if tensor.name == "bias":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(12, np.nan, "f4"), "bias"))
        onnx.save_model(graph, tiny_copy / "cell.onnx")
        (tiny_copy / "cell.onnx.data").unlink()
        rewrite(tiny_copy, lambda manifest: None)
        encoder, step_model = load_model(load_bundle(tiny_copy), "cpu")
        state = step_model.start(encoder.encode(PHOTOS))
        for top_k, full in ((3, False), (0, True)):
            with pytest.raises(BundleError, match=r"cell\.onnx: the output .* not finite"):
                step_model.step(tokens(*[1] * 6), state, top_k, full=full)

    def test_cuda_is_refused_where_it_is_not(self, tiny_bundle):
        from mrnn_runtime.engine.providers import probe

        if probe("cuda").works:
            pytest.skip("CUDA works here")
        with pytest.raises(ProviderError):
            load_model(load_bundle(tiny_bundle), "cuda")
        encoder, step_model = load_model(load_bundle(tiny_bundle), "auto")
        assert encoder.provider == step_model.provider == "CPUExecutionProvider"
