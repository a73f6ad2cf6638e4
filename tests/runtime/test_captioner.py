"""Captioner and load: order, options, batches, broken images, models by name, bad plugins."""

import dataclasses
import shutil
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mrnn_runtime
from mrnn_runtime import (
    BundleError,
    DecodeChanges,
    DecodeOptions,
    ImageError,
    PluginError,
    PluginManager,
    UsageError,
    load,
)
from mrnn_runtime.plugins.models import find_model

MODELS = """
import pathlib
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_models():
    return [Component(name, "{module}:folder", "captions") for name in NAMES]

def folder():
    return pathlib.Path(FOLDER)
"""


def models(*names, folder):
    return MODELS.replace("NAMES", repr(names)).replace("FOLDER", repr(str(folder)))


@pytest.fixture(scope="session")
def captioner(tiny_bundle):
    return load(tiny_bundle, provider="cpu", threads=1)


def test_images_come_back_in_order_with_the_facts_of_the_run(captioner, photos):
    captions = list(captioner.caption([photos / "sub/c.png", photos], decoder="greedy"))
    names = ["sub/c.png", "a.png", "b.jpg", "sub/c.png"]
    assert [caption.path for caption in captions] == [str(photos / name) for name in names]
    assert captions[0] == captions[3]
    for caption in captions:
        assert caption.text
        assert caption.text == caption.candidates[0].caption
        assert caption.log_prob == caption.candidates[0].log_prob < 0
        assert caption.model == captioner.bundle.name
        assert caption.provider == "CPUExecutionProvider"
        assert caption.decoder == "greedy"
        assert caption.error is None


def test_one_path_needs_no_list(captioner, photos):
    assert list(captioner.caption(str(photos))) == list(captioner.caption([photos]))


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_no_caption_depends_on_the_batch(captioner, photos, decoder):
    (photos / "aa.jpg").write_bytes(b"no image")
    runs = [
        list(captioner.caption(photos, decoder=decoder, batch_size=size)) for size in (1, 2, 4, 8)
    ]
    assert all(run == runs[0] for run in runs)


def test_a_broken_image_is_a_record_and_the_others_go_on(captioner, photos):
    (photos / "aa.jpg").write_bytes(b"no image")
    captions = list(captioner.caption(photos, batch_size=2))
    assert [bool(caption.error) for caption in captions] == [False, True, False, False]
    broken = captions[1]
    assert "aa.jpg" in broken.error.message
    assert broken.error.hint
    assert broken.log_prob is None
    assert (broken.text, broken.candidates, broken.finished) == ("", (), False)
    (photos / "aa.jpg").unlink()
    assert [c for c in captions if not c.error] == list(captioner.caption(photos))


def test_images_in_memory_give_the_captions_of_the_file(captioner, photos):
    path = photos / "b.jpg"
    (wanted,) = captioner.caption(path)
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
        kinds = [path.read_bytes(), BytesIO(path.read_bytes()), opened, pixels]
        alone = [next(captioner.caption(kind)) for kind in (path.read_bytes(), opened, pixels)]
        with path.open("rb") as file:
            mixed = list(captioner.caption([str(path), file, *kinds, photos], batch_size=3))
    assert [caption.candidates for caption in alone] == [wanted.candidates] * 3
    assert [caption.candidates for caption in mixed[:6]] == [wanted.candidates] * 6
    names = [caption.path for caption in mixed]
    assert names[:6] == [str(path), str(path), "images[2]", "images[3]", str(path), "images[5]"]
    assert mixed[6:] == list(captioner.caption(photos))


def test_images_in_memory_that_cannot_be_read_are_records(captioner, photos):
    good = (photos / "b.jpg").read_bytes()
    cut, empty, fine = captioner.caption([good[:300], b"", good])
    assert cut.error.message.startswith("images[0] ")
    assert empty.error.message == "images[1] is empty"
    assert (fine.error, bool(fine.text)) == (None, True)


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        None,
        [3],
        [StringIO("text")],
        np.zeros((4, 4), np.uint8),
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4, 4), np.uint8)],
        [np.zeros((0, 4, 3), np.uint8)],
    ],
    ids=repr,
)
def test_what_is_no_image_names_what_is_taken(captioner, wrong):
    with pytest.raises(UsageError, match="is no image") as caught:
        captioner.caption(wrong)
    assert "PIL image" in caught.value.hint


def test_encode_takes_the_same_kinds_and_raises(captioner, photos):
    path = photos / "b.jpg"
    both = captioner.encode([path, path.read_bytes()])
    assert np.array_equal(both.reference_feature[0], both.reference_feature[1])
    assert len(captioner.encode([])) == 0
    with pytest.raises(ImageError, match=r"images\[1\] is no image"):
        captioner.encode([path, b"nothing"])


def test_all_options_of_decoding_work_from_python(captioner, photos):
    given = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 4, "n_best": 2}
    once, again = (list(captioner.caption(photos, decoder="sample", **given)) for _ in range(2))
    other = list(captioner.caption(photos, decoder="sample", **given | {"seed": 5}))
    assert once == again != other
    assert set(DecodeChanges.__annotations__) == (
        {field.name for field in dataclasses.fields(DecodeOptions)} - {"banned"}
    ) | {"banned_words"}
    with pytest.raises(UsageError, match="unknown decoding option colour"):
        captioner.caption(photos, colour="red")


def test_plugins_can_be_given(tiny_bundle, photos):
    plugins = PluginManager(disabled=["builtin"])
    captioner = load(tiny_bundle, provider="cpu", plugins=plugins)
    with pytest.raises(UsageError, match="unknown decoder 'beam'"):
        captioner.caption(photos)


def test_only_broken_images(captioner, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert [bool(caption.error) for caption in captioner.caption(tmp_path)] == [True]


def test_mistakes_are_raised_by_the_call_not_by_the_first_result(captioner, photos):
    for wrong in (
        {"images": photos / "missing.jpg"},
        {"images": photos, "decoder": "baem"},
        {"images": photos, "reranker": "nobody"},
        {"images": photos, "beam_size": 0},
        {"images": photos, "batch_size": 0},
        {"images": photos, "banned_words": ["nosuchword"]},
    ):
        with pytest.raises(UsageError):
            captioner.caption(**wrong)


def test_options_that_are_not_given_are_the_bundles(captioner):
    assert captioner.options() == captioner.bundle.decode_options
    changed = captioner.options(beam_size=3, max_length=7, length_penalty=0.5)
    assert changed == dataclasses.replace(
        captioner.bundle.decode_options, beam_size=3, max_length=7, length_penalty=0.5
    )


def test_options_can_be_given_whole_and_changed(captioner, photos):
    whole = DecodeOptions(n_best=2, beam_size=4, max_length=6)
    given = list(captioner.caption(photos, options=whole, max_length=3))
    assert given == list(
        captioner.caption(photos, options=dataclasses.replace(whole, max_length=3))
    )
    assert all(len(caption.text.split()) <= 3 for caption in given)


def test_words_are_translated_and_bans_add_up(captioner):
    bundle = captioner.bundle
    (dog,) = captioner.vocabulary.ids_of(["dog"])
    banning = dataclasses.replace(
        bundle, decode_options=dataclasses.replace(bundle.decode_options, banned=(5,))
    )
    other = mrnn_runtime.Captioner(
        banning, captioner.encoder, captioner.model, captioner.vocabulary
    )
    assert other.options(banned_words=["dog"]).banned == (5, dog)
    assert captioner.options(prefix="dog dog").prefix == (dog, dog)


def test_n_best_candidates_are_in_the_decoders_order(captioner, photos):
    (caption, *_) = captioner.caption(photos, n_best=3, beam_size=5, length_penalty=0)
    scores = [candidate.log_prob for candidate in caption.candidates]
    assert 1 < len(scores) <= 3
    assert scores == sorted(scores, reverse=True)
    assert len({candidate.caption for candidate in caption.candidates}) == len(scores)


RERANKERS = """
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_rerankers():
    return [Component(n, "{module}:" + n, "") for n in ("Worst", "Same", "Nan", "Short")]

class Reranker:
    def __init__(self, bundle, options):
        assert bundle.name

class Worst(Reranker):
    def score(self, images, candidates):
        assert len(images) == len(candidates)
        return [[-candidate.log_prob for candidate in row] for row in candidates]

class Same(Reranker):
    def score(self, images, candidates):
        return [[0.0] * len(row) for row in candidates]

class Nan(Reranker):
    def score(self, images, candidates):
        return [[float("nan")] * len(row) for row in candidates]

class Short(Reranker):
    def score(self, images, candidates):
        return [[0.0] for row in candidates]
"""


def test_a_reranker_chooses_among_all_that_the_decoder_kept(captioner, photos, install):
    install("rank", RERANKERS)
    plain = list(captioner.caption(photos, beam_size=4, n_best=4))
    same = list(captioner.caption(photos, beam_size=4, n_best=4, reranker="Same"))
    for before, after in zip(plain, same, strict=True):
        unranked = [dataclasses.replace(one, rerank_score=None) for one in after.candidates]
        assert dataclasses.replace(after, candidates=tuple(unranked), reranker=None) == before
        assert after.reranker == "Same"
        assert [one.rerank_score for one in after.candidates] == [0.0] * 4
    worst = list(captioner.caption(photos, beam_size=4, reranker="Worst"))
    for before, after in zip(plain, worst, strict=True):
        (chosen,) = after.candidates
        assert after.log_prob == min(candidate.log_prob for candidate in before.candidates)
        assert (chosen.rank, chosen.rerank_score) == (4, -chosen.log_prob)


def test_the_bundles_reranker_is_the_default_and_none_turns_it_off(captioner, photos, install):
    install("rank", RERANKERS)
    bundle = dataclasses.replace(captioner.bundle, reranker="Worst")
    other = mrnn_runtime.Captioner(bundle, captioner.encoder, captioner.model, captioner.vocabulary)
    assert list(other.caption(photos)) == list(captioner.caption(photos, reranker="Worst"))
    assert list(other.caption(photos, reranker="none")) == list(captioner.caption(photos))


@pytest.mark.parametrize("name", ["Nan", "Short"])
def test_a_reranker_that_breaks_its_contract_is_named(captioner, photos, install, name):
    install("rank", RERANKERS)
    with pytest.raises(PluginError, match=name):
        list(captioner.caption(photos, reranker=name))


DECODERS = """
from mrnn_runtime import Component, hookimpl

@hookimpl
def mrnn_decoders():
    return [Component(n, "{module}:" + n, "") for n in ("Raises", "Fewer", "Empty", "Unborn")]

class Raises:
    def decode(self, model, images, options):
        raise KeyError("oops")

class Fewer:
    def decode(self, model, images, options):
        return []

class Empty:
    def decode(self, model, images, options):
        return [[] for _ in range(len(images))]

class Unborn:
    def __init__(self, needed): ...
"""


@pytest.mark.parametrize("name", ["Raises", "Fewer", "Empty", "Unborn"])
def test_a_decoder_that_fails_is_named(captioner, photos, install, name):
    install("search", DECODERS)
    with pytest.raises(PluginError, match=name):
        list(captioner.caption(photos, decoder=name))


def test_the_only_installed_model_is_the_default(tiny_bundle, install, monkeypatch):
    monkeypatch.setenv("MRNN_MODEL", "another")
    install("tiny", models("tiny", folder=tiny_bundle))
    assert find_model() == tiny_bundle
    assert find_model("tiny") == tiny_bundle
    assert load().bundle.folder == tiny_bundle.resolve()


def test_of_several_models_the_environment_chooses(tiny_bundle, install, monkeypatch):
    install("tiny", models("one", "two", folder=tiny_bundle))
    with pytest.raises(
        UsageError, match="several models are installed, and none is named"
    ) as error:
        find_model()
    assert error.value.hint.endswith(": one, two")
    monkeypatch.setenv("MRNN_MODEL", "three")
    with pytest.raises(UsageError, match="'three', which the variable MRNN_MODEL names"):
        find_model()
    with pytest.raises(UsageError) as error:
        find_model("three")
    assert error.value.message == "unknown model 'three'"
    monkeypatch.setenv("MRNN_MODEL", "two")
    assert find_model() == tiny_bundle
    monkeypatch.setenv("MRNN_MODEL", str(tiny_bundle))
    assert find_model() == tiny_bundle


def test_an_unknown_model_gets_close_matches_and_what_to_install(tiny_bundle, install):
    install("tiny", models("flickr8k", folder=tiny_bundle))
    with pytest.raises(UsageError) as caught:
        load("flikr8k")
    assert "did you mean 'flickr8k'?" in caught.value.hint
    assert "pip install" in caught.value.hint


def test_without_any_model_the_error_says_what_to_install(only_builtins):
    with pytest.raises(UsageError) as caught:
        load()
    assert caught.value.message == "no model is installed"
    assert "pip install mrnn-everyday" in caught.value.hint


def test_a_file_is_no_bundle(tmp_path, only_builtins, monkeypatch):
    (tmp_path / "caption.onnx").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("caption.onnx", "./caption.onnx"):
        with pytest.raises(BundleError, match=r"caption\.onnx is no bundle: it is a file"):
            load(name)


def test_an_installed_name_is_never_taken_for_a_folder(tiny_bundle, install, tmp_path, monkeypatch):
    install("tiny", models("tiny", folder=tiny_bundle))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert find_model("tiny") == tiny_bundle
    assert find_model("./tiny").resolve() == tmp_path / "tiny"
    assert find_model(Path("tiny")) == Path("tiny")
    shutil.copytree(tiny_bundle, tmp_path / "mine")
    assert load("mine").bundle.folder == tmp_path / "mine"


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError):
        load(tmp_path)


def test_a_model_plugin_that_fails_is_named(install, tiny_bundle):
    install("tiny", models("tiny", folder=tiny_bundle).replace("pathlib.Path(", "open("))
    with pytest.raises(PluginError, match="model 'tiny' failed"):
        load("tiny")
