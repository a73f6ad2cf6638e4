"""``mrnn flatten``: the graph finds what the Python decoders find, to the last tie."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mrnn_exporters import flatten, quantize
from mrnn_exporters.datasets import Example
from mrnn_exporters.resize_graph import resize_graph
from mrnn_runtime import BundleError, Preprocess, UsageError, load, read_image
from mrnn_runtime.build import MOST_TRIPS, golden_images, open_flat
from mrnn_runtime.bundle.loading import read_manifest, write_manifest
from mrnn_runtime.engine import sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from mrnn_runtime import Captioner, DecodeOptions


def images(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, 16, 16, 3), np.uint8)


def assert_same(
    captioner: Captioner, path: Path, pixels: np.ndarray, decoder: str, options: DecodeOptions
) -> None:
    """Hold the file's n best of each image against the decoder's: words, text and numbers."""
    flat = open_flat(path, "cpu", threads=1)
    names = [output.name for output in flat.session.outputs]
    result = dict(zip(names, flat.session.run(names, {"image": pixels}), strict=True))
    decoded = captioner.decode(captioner.encoder.encode(pixels), decoder=decoder, options=options)
    for i, candidates in enumerate(decoded):
        lengths = result["length"][i]
        assert np.count_nonzero(lengths) == len(candidates)
        for j, one in enumerate(candidates):
            assert tuple(result["token"][i, j, : lengths[j]].tolist()) == one.tokens
            assert result["finished"][i, j] == one.finished
            assert "".join(result["caption"][i, j]) == captioner.vocabulary.decode(one.tokens)
            assert float(result["log_prob"][i, j]) == pytest.approx(one.log_prob, abs=1e-5)
            assert float(result["score"][i, j]) == pytest.approx(one.score, abs=1e-5)


@st.composite
def searches(draw: st.DrawFn) -> dict[str, object]:
    longest = draw(st.integers(1, 9))
    return {
        "beam_size": draw(st.integers(1, 7)),
        "n_best": draw(st.integers(1, 9)),
        "max_length": longest,
        "min_length": draw(st.integers(1, longest)),
        "length_penalty": draw(st.sampled_from([0.0, 0.7, 1.0, 2.5])),
        "banned_words": draw(st.lists(st.sampled_from(["a", "dog", "'s"]), unique=True)),
    }


@pytest.fixture(scope="module")
def tiny_models(make_tiny_bundle: Callable[..., Path]) -> list[Captioner]:
    """Three cells: plain, with a state that starts from the image, with two words that tie."""
    kinds = ({}, {"memory": True, "seed": 3}, {"tied": True, "seed": 5})
    return [load(make_tiny_bundle(**kind), provider="cpu", threads=1) for kind in kinds]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(search=searches(), model=st.integers(0, 2), decoder=st.sampled_from(["beam", "greedy"]))
def test_the_graph_finds_what_the_decoder_finds(
    tiny_models: list[Captioner],
    tmp_path_factory: pytest.TempPathFactory,
    search: dict[str, object],
    model: int,
    decoder: str,
) -> None:
    captioner = tiny_models[model]
    path = tmp_path_factory.mktemp("flat") / "caption.onnx"
    flatten.run(captioner.bundle.folder, path, decoder=decoder, **search)
    options = captioner.options(**search)
    pixels = images(5)
    assert_same(captioner, path, pixels[:4], decoder, options)
    assert_same(captioner, path, pixels[4:], decoder, options)


def test_what_is_not_given_is_as_the_bundle_says(
    make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_tiny_bundle()
    manifest = read_manifest(folder)
    own = {"beam_size": 2, "max_length": 6, "min_length": 3, "length_penalty": 0.9, "banned": [5]}
    manifest["decode"] = {"decoder": "beam", "options": own}
    write_manifest(folder, manifest)
    captioner = load(folder, provider="cpu")
    bundle = flatten.run(folder, tmp_path / "c.onnx")
    assert bundle == captioner.bundle
    assert_same(captioner, tmp_path / "c.onnx", images(3), "beam", captioner.options())
    facts = open_flat(tmp_path / "c.onnx", "cpu").facts
    assert json.loads(facts["mrnn.options"]) == {**own, "n_best": 1}
    assert (facts["mrnn.name"], facts["mrnn.version"], facts["mrnn.licence"]) == (
        "tiny",
        "1.0",
        "CC0-1.0",
    )
    assert json.loads(facts["mrnn.preprocess"])["height"] == 16


def test_int8_flattens(
    make_tiny_bundle: Callable[..., Path], make_photos: Callable[..., list[Path]], tmp_path: Path
) -> None:
    examples = [Example(path, ()) for path in make_photos(tmp_path / "photos", 6)]
    bundle, _, _ = quantize.run(make_tiny_bundle(), tmp_path / "int8", examples, agreement=0.0)
    flatten.run(bundle.folder, tmp_path / "c.onnx", n_best=3)
    captioner = load(bundle.folder, provider="cpu", threads=1)
    assert_same(captioner, tmp_path / "c.onnx", images(4), "beam", captioner.options(n_best=3))
    kinds = {node.op_type for node in nodes(onnx.load(tmp_path / "c.onnx"))}
    assert "MatMulInteger" in kinds


def test_operators_are_of_the_standard_and_weights_stand_outside_of_the_loop(
    make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    flatten.run(make_tiny_bundle(), tmp_path / "c.onnx")
    model = onnx.load(tmp_path / "c.onnx")
    assert {node.domain for node in nodes(model)} == {""}
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in loop.attribute)
    assert not body.initializer
    assert "Constant" not in {node.op_type for node in body.node}


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    outer = list(model.graph.node)
    return outer + [n for node in outer for part in node.attribute for n in part.g.node]


def test_onnx_runtimes_own_format_says_the_same(
    make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_tiny_bundle()
    runs = []
    for name in ("c.onnx", "c.ort"):
        flatten.run(folder, tmp_path / name)
        session = onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        runs.append(session.run(["token", "log_prob"], {"image": images(3)}))
        assert session.get_modelmeta().custom_metadata_map["mrnn.name"] == "tiny"
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_allclose(runs[0][1], runs[1][1], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.onnx", "c.ort"]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("'sample' cannot be part", {"decoder": "sample"}),
        ("no_repeat_ngram cannot", {"no_repeat_ngram": 2}),
        ("prefix cannot", {"prefix": "a dog"}),
        ("deadline_ms cannot", {"deadline_ms": 5}),
        ("must be below 64", {"max_length": MOST_TRIPS}),
    ],
)
def test_what_a_graph_cannot_do_is_refused(
    tiny_bundle: Path, tmp_path: Path, words: str, given: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=words):
        flatten.run(tiny_bundle, tmp_path / "c.onnx", **given)
    with pytest.raises(UsageError, match=r"c\.txt is no name of a graph"):
        flatten.run(tiny_bundle, tmp_path / "c.txt")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_finds_other_captions_is_not_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = flatten.whole_graph

    def broken(*args: object, **options: object) -> onnx.ModelProto:
        model = graph(*args, **options)
        mask = next(t for t in model.graph.initializer if t.name == "masks")
        mask.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mask)[:, ::-1].copy(), "masks"))
        return model

    monkeypatch.setattr(flatten, "whole_graph", broken)
    with pytest.raises(BundleError, match="does not find the captions"):
        flatten.run(tiny_bundle, tmp_path / "c.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def flat_file(tiny_bundle: Path, tmp_path: Path) -> Path:
    flatten.run(tiny_bundle, tmp_path / "caption.onnx")
    return tmp_path / "caption.onnx"


def test_verify_replays_the_golden_vectors(
    flat_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = verify(flat_file, capsys)
    assert code == 0
    assert out.splitlines()[0] == "tiny 1.0 on CPUExecutionProvider"
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        "log_prob", "score", "caption", "ok:"
    ]  # fmt: skip
    model = onnx.load(flat_file)
    bias = next(t for t in model.graph.initializer if t.name == "cell/bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * 1.5, bias.name))
    onnx.save(model, flat_file)
    code, out = verify(flat_file, capsys)
    assert code == 3
    assert "FAILED" in out


def verify(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    from mrnn_runtime.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path), "--provider", "cpu"])
    return ended.value.code or 0, capsys.readouterr().out


def test_a_file_without_golden_vectors_or_facts_is_refused(flat_file: Path) -> None:
    model = onnx.load(flat_file)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    del facts["mrnn.golden"]
    helper.set_model_props(model, facts)
    onnx.save(model, flat_file)
    with pytest.raises(BundleError, match="cannot be replayed"):
        open_flat(flat_file, "cpu").replay()
    for golden in ("[" * 100_000, f"[{'{},' * 500_000}0]", "[]", "{}"):
        helper.set_model_props(model, facts | {"mrnn.golden": golden})
        onnx.save(model, flat_file)
        with pytest.raises(BundleError, match="cannot be replayed"):
            open_flat(flat_file, "cpu").replay()
    helper.set_model_props(model, {})
    onnx.save(model, flat_file)
    with pytest.raises(BundleError, match="not made by mrnn flatten"):
        open_flat(flat_file, "cpu")


def _long(model: onnx.ModelProto) -> None:
    steps = next(t for t in model.graph.initializer if t.name == "steps")
    steps.CopyFrom(numpy_helper.from_array(np.array(MOST_TRIPS + 1), "steps"))


def _negative(model: onnx.ModelProto) -> None:
    steps = next(t for t in model.graph.initializer if t.name == "steps")
    steps.CopyFrom(numpy_helper.from_array(np.array(-1), "steps"))


def _computed(model: onnx.ModelProto) -> None:
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.input[0] = "n_scalar"
    model.graph.node.insert(0, helper.make_node("Size", ["image"], ["n_scalar"]))


def _endless(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Loop").input[0] = ""


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(next(node for node in model.graph.node if node.op_type == "Loop"))


def _nested(model: onnx.ModelProto) -> None:
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.attribute[0].g.node.append(
        helper.make_node("If", ["step/going"], [], then_branch=_empty())
    )


def _branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("If", ["true"], [], then_branch=_empty()))


def _empty() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_graph([], "empty", [], [value])


def _foreign(model: onnx.ModelProto) -> None:
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.attribute[0].g.node[0].domain = "com.microsoft"


def _function(model: onnx.ModelProto) -> None:
    function = helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", 17)])
    model.functions.append(function)


@pytest.mark.parametrize(
    "change", [_long, _negative, _computed, _endless, _twice, _nested, _branch, _foreign, _function]
)
def test_what_need_not_end_is_refused(
    flat_file: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    open_flat(flat_file)
    model = onnx.load(flat_file)
    change(model)
    onnx.save(model, flat_file)
    with pytest.raises(BundleError, match="may do harm"):
        open_flat(flat_file)


def test_shapes_that_follow_the_batch_are_no_weights(
    flat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_flat(flat_file)  # makes the arena of the process
    monkeypatch.setattr(sessions, "memory_limit", lambda: 1)
    open_flat(flat_file)


def test_golden_images_may_not_fill_the_memory(flat_file: Path) -> None:
    model = open_flat(flat_file, "cpu")
    (image,) = model.session.inputs
    model.session.inputs = (dataclasses.replace(image, shape=("n", 10**6, 10**6, 3)),)
    with pytest.raises(BundleError, match="the image is 1000000 x 1000000"):
        model.replay()


def test_golden_images_are_those_that_the_docs_describe() -> None:
    drawn = golden_images(5, 300)
    assert drawn.shape == (2, 5, 300, 3)
    assert drawn[1, 3, 200, 2] == (3 * 2 + 2 * 200 + 80 * 2) % 256


def test_the_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mrnn_runtime.cli import main

    path = tmp_path / "c.onnx"
    given = ["--decoder", "greedy", "--max-length", "5", "--ban", "dog", "--length-penalty", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["flatten", str(tiny_bundle), "-o", str(path), *given])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"{path}: tiny 1.0, 0.0 MB")
    options = json.loads(open_flat(path, "cpu").facts["mrnn.options"])
    assert options == {
        "beam_size": 1,
        "n_best": 1,
        "min_length": 1,
        "max_length": 5,
        "length_penalty": 1.0,
        "banned": [6],
    }


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_pixels_that_are_scaled_inside_are_those_of_pillow_bit_by_bit(
    resize: str, interpolation: str
) -> None:
    recipe = Preprocess(height=26, width=32, resize=resize, interpolation=interpolation)
    made, constants = resize_graph(recipe, "photos", "image")
    graph = helper.make_graph(
        made,
        "resize",
        [helper.make_tensor_value_info("photos", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 26, 32, 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert len({name for node in made for name in node.output}) == len(made)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(1)
    # What is much higher than wide is scaled by Pillow in the other order of axes.
    sizes = [(375, 500), (500, 333), (432, 99), (31, 40), (26, 26), (1, 61), (97, 1), (2000, 40)]
    for height, width in sizes:
        photos = rng.choice(np.uint8([0, 1, 100, 254, 255]), (2, height, width, 3))
        (scaled,) = session.run(["image"], {"photos": photos})
        for one, photo in zip(scaled, photos, strict=True):
            np.testing.assert_array_equal(one, read_image(photo, recipe), str((height, width)))


def test_images_of_any_size_go_in(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.onnx"
    flatten.run(tiny_bundle, path, resize_inside=True)
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    flat = open_flat(path, "cpu", threads=1)
    assert flat.replay().ok
    assert flat.facts["mrnn.resize"] == "inside"
    for height, width in ((33, 70), (16, 16), (90, 20)):
        photos = np.random.default_rng(height).integers(0, 256, (3, height, width, 3), np.uint8)
        names = ["token", "log_prob"]
        token, log_prob = flat.session.run(names, {"image": photos})
        for i, one in enumerate(captioner.caption(list(photos))):
            best = one.candidates[0]
            assert captioner.vocabulary.decode(token[i, 0][token[i, 0] != 0]) == best.caption
            assert float(log_prob[i, 0]) == pytest.approx(best.log_prob, abs=1e-5)


def test_a_calibrated_model_says_how_sure_it_is(
    make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_tiny_bundle()
    manifest = read_manifest(folder)
    weights = {"per_word": 2.0, "length": -0.1, "image": 0.5}
    manifest["confidence"] = {
        "decoder": "beam", "beam_size": 3, "good": 0.5, "bias": 0.3, "threshold": 0.5,
        "weights": weights,
    }  # fmt: skip
    write_manifest(folder, manifest)
    captioner = load(folder, provider="cpu", threads=1)
    search = {"beam_size": 3, "n_best": 4, "max_length": 6}
    flatten.run(folder, tmp_path / "c.onnx", confidence=True, **search)
    flat = open_flat(tmp_path / "c.onnx", "cpu", threads=1)
    assert flat.replay().ok
    pixels = images(3)
    confidence, length = flat.session.run(["confidence", "length"], {"image": pixels})
    for i, one in enumerate(captioner.caption(list(pixels), **search)):
        wanted = [candidate.confidence for candidate in one.candidates]
        np.testing.assert_allclose(confidence[i, : len(wanted)], wanted, atol=2e-6)
        assert not confidence[i, length[i] == 0].any()
    flatten.run(folder, tmp_path / "plain.onnx", **search)
    assert "confidence" not in names_of(tmp_path / "plain.onnx")
    flatten.run(folder, tmp_path / "auto.onnx", confidence=None, **search)
    assert "confidence" in names_of(tmp_path / "auto.onnx")
    for other in ({"decoder": "greedy"}, {"beam_size": 2}):
        flatten.run(folder, tmp_path / "other.onnx", confidence=None, **other)
        assert "confidence" not in names_of(tmp_path / "other.onnx")
        with pytest.raises(UsageError, match="no confidence for this search"):
            flatten.run(folder, tmp_path / "no.onnx", confidence=True, **other)
    assert not (tmp_path / "no.onnx").exists()


def names_of(path: Path) -> list[str]:
    return [output.name for output in onnx.load(path).graph.output]
