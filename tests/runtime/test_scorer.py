"""ln P(sentence | image): the tree of sentences, and both ways through the model."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime import load
from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.engine import model as engine
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.retrieval import scorer
from mrnn_runtime.retrieval.scorer import Sentences, load_scorer
from mrnn_runtime.testing import TableModel, encoded_images

# Few words, so that many sentences begin alike and some are the beginning of others.
SENTENCES = st.lists(
    st.lists(st.integers(4, 6), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12
)
PHOTOS = np.random.default_rng(3).integers(0, 256, (40, 16, 16, 3), np.uint8)


def table_scorer(sentences, seed=0):
    model = TableModel(seed=seed)
    return load_scorer(model, sentences)


def one_by_one(model, images, sentences):
    """The definition: each sentence, fed to each image alone."""
    log_probs = np.empty((len(images), len(sentences)))
    for i in range(len(images)):
        for j, words in enumerate(sentences):
            state, total = model.start(images.take(np.array([i]))), 0.0
            for token, following in zip([1, *words], [*words, 2], strict=True):
                scores, state = model.step(np.array([token]), state, 0, full=True)
                total += float(scores.log_probs[0, following])
            log_probs[i, j] = total
    return log_probs


@given(SENTENCES)
def test_the_tree_holds_each_beginning_once(sentences):
    tree = Sentences.of(sentences, 1)
    paths = [()]
    for token, parent in zip(tree.tokens[1:], tree.parents[1:], strict=True):
        paths.append((*paths[parent], int(token)))
    assert len(set(paths)) == len(paths)
    assert set(paths) == {s[:n] for s in sentences for n in range(len(s) + 1)}
    assert [paths[end] for end in tree.ends] == sentences
    for branch, path in enumerate(paths):
        below = range(tree.children[branch], tree.children[branch + 1])
        assert list(below) == [i for i in range(1, len(paths)) if tree.parents[i] == branch]
        assert tree.levels[len(path)] <= branch < tree.levels[len(path) + 1]


@given(SENTENCES, st.integers(1, 3), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_each_sentence_alone(sentences, images, rows):
    made = table_scorer(sentences)
    encoded = encoded_images(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "_ROWS", rows)  # so that levels come in several blocks
        log_probs = made.log_probs(encoded)
    np.testing.assert_allclose(log_probs, one_by_one(made.model, encoded, sentences), rtol=1e-12)


@pytest.fixture(scope="module")
def captioner(make_tiny_bundle):
    return load(make_tiny_bundle(readout=True), provider="cpu", threads=1)


@given(sentences=SENTENCES, rows=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_the_readout_says_what_the_whole_model_says(captioner, sentences, rows):
    images = captioner.encoder.encode(PHOTOS[:3])
    made = load_scorer(captioner.model, sentences)
    assert made.readout is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "_ROWS", rows)
        log_probs = made.log_probs(images)
    whole = replace(made, readout=None).log_probs(images)
    np.testing.assert_allclose(log_probs, whole, atol=1e-5)
    np.testing.assert_allclose(whole, one_by_one(captioner.model, images, sentences), atol=1e-5)


def test_no_score_depends_on_the_other_images(captioner):
    made = load_scorer(captioner.model, [(4, 5), (4, 6, 7), (8,)])
    together = made.log_probs(captioner.encoder.encode(PHOTOS))
    assert together.shape == (len(PHOTOS), 3)
    for way in (made, replace(made, readout=None)):
        for i in (0, 31, 32, 39):
            alone = way.log_probs(captioner.encoder.encode(PHOTOS[i : i + 1]))
            np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_no_images(captioner):
    made = load_scorer(captioner.model, [(4, 5)])
    assert made.log_probs(captioner.encoder.encode(PHOTOS[:0])).shape == (0, 1)


@pytest.mark.parametrize("sentences", [[], [(4,), ()]])
def test_a_sentence_without_a_word(sentences):
    with pytest.raises(UsageError, match="without a word"):
        Sentences.of(sentences, 1)


def rename(tensors, old, new):
    next(t for t in tensors if t["name"] == old)["name"] = new


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: rename(r["inputs"], "state", "memory"), "readout.inputs"),
        (lambda r: rename(r["inputs"], "image_term", "image"), "readout.inputs"),
        (lambda r: rename(r["outputs"], "log_probs", "logits"), "readout.outputs"),
        (lambda r: r["outputs"][0].update(shape=["t", "n", 13]), "readout.outputs"),
        (lambda r: r.update(file="upper.onnx"), "must list upper.onnx"),
    ],
)
def test_a_readout_that_does_not_fit_the_cell(make_tiny_bundle, change, words):
    folder = make_tiny_bundle(readout=True)
    manifest = read_manifest(folder)
    change(manifest["readout"])
    with pytest.raises(BundleError, match=words):
        write_manifest(folder, manifest)


def test_a_readout_that_is_another_graph(make_tiny_bundle):
    folder = make_tiny_bundle(readout=True)
    (folder / "readout.onnx").write_bytes((folder / "cell.onnx").read_bytes())
    write_manifest(folder, read_manifest(folder))
    assert load_bundle(folder).readout is not None
    with pytest.raises(BundleError, match=r"readout\.onnx has the inputs"):
        load_scorer(load(folder, provider="cpu", threads=1).model, [(4,)])


def test_the_readout_runs_where_the_model_does(make_tiny_bundle, monkeypatch):
    folder = make_tiny_bundle(readout=True)
    asked = []
    make_session = engine.make_session
    monkeypatch.setattr(
        engine,
        "make_session",
        lambda *given, **more: asked.append(given[1:]) or make_session(*given, **more),
    )
    model = load(folder, provider="cpu", threads=1).model
    monkeypatch.delattr(engine.OnnxEncoder, "encode")  # no image is encoded for sentences alone
    scorers = [load_scorer(model, [(4, 5)]) for _ in range(2)]
    assert asked == [("cpu", 1)] * 3
    assert scorers[0].readout is scorers[1].readout is not None
