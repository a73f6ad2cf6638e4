"""``mrnn quantize``: smaller graphs that say nearly the same, and never by their neighbours."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from mrnn_exporters import plugin, quantize, references
from mrnn_exporters.datasets import Example
from mrnn_exporters.int8 import (
    quantize_convolutions,
    quantize_tables,
    quantize_vocabulary,
    store_bytes,
)
from mrnn_runtime import BundleError, UsageError, load, load_bundle
from mrnn_runtime.bundle.loading import read_manifest, write_manifest
from mrnn_runtime.engine.golden import replay_golden
from mrnn_runtime.reranking.references import load_references
from mrnn_runtime.retrieval.scorer import load_scorer

CNN = """
<ir_version: 10, opset_import: ["": 17]>
encoder (uint8[n, 16, 16, 3] image)
    => (float[n, 6] image_term, float[n, 8] reference_feature, float[n, 4] first_memory)
{
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    centred = Sub (planes, half)
    scaled = Mul (centred, scale)
    first = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (scaled, w_first, b_first)
    normed = BatchNormalization (first, gain, shift, mean, variance)
    one = Clip (normed, zero, six)
    deep = Conv <group = 8, pads = [1, 1, 1, 1]> (one, w_deep, b_deep)
    two = Clip (deep, zero, six)
    third = Conv (two, w_third, b_third)
    sum = Add (third, one)
    three = Conv (sum, w_fourth, b_fourth)
    last = Relu (three)
    pooled = ReduceMean <axes = [2, 3], keepdims = 0> (last)
    more = Add (pooled, b_third)
    reference_feature = Tanh (more)
    image_term = MatMul (reference_feature, v_image)
    first_memory = MatMul (reference_feature, w_memory)
}
"""


def save_cnn(path: Path) -> None:
    """Replace the tiny bundle's encoder by a small CNN."""
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    arrays = {
        "half": np.float32([127.5]),
        "scale": np.float32([1 / 64]),
        "zero": np.float32(0),
        "six": np.float32(6),
        "w_first": normal(8, 3, 3, 3),
        "w_deep": normal(8, 1, 3, 3),
        "w_third": normal(8, 8, 1, 1),
        "w_fourth": normal(8, 8, 1, 1),
        **{name: normal(8) * 0.1 for name in ("b_first", "b_deep", "b_third", "b_fourth")},
        **{"gain": np.float32([2] * 8), "shift": normal(8), "mean": normal(8) * 0.1},
        "variance": np.float32(rng.uniform(0.5, 2, 8)),
        "v_image": normal(8, 6),
        "w_memory": normal(8, 4),
    }
    model = onnx.parser.parse_model(CNN)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def cnn_bundle(make_tiny_bundle) -> Path:
    """A tiny bundle with a CNN and a readout."""
    folder = make_tiny_bundle(readout=True)
    save_cnn(folder / "encoder.onnx")
    write_manifest(folder, read_manifest(folder))
    return folder


@pytest.fixture
def photos(tmp_path: Path, make_photos) -> list[Example]:
    return [Example(path, ("a dog runs",)) for path in make_photos(tmp_path / "photos", 10)]


@pytest.fixture
def invoke():
    app = typer.Typer(pretty_exceptions_enable=False)
    plugin.mrnn_commands(app)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_the_bundle_is_whole_and_says_nearly_the_same(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path
) -> None:
    bundle, measured, kept = quantize.run(cnn_bundle, tmp_path / "int8", photos)
    assert (bundle.name, bundle.precision, kept) == ("tiny-int8", "int8", [])
    assert bundle == load_bundle(tmp_path / "int8")
    assert 0.9 <= measured.agreement <= 1
    assert measured.photos == 10
    assert len(measured.cider) == 2
    assert bundle.training["quantized"]["agreement"] == measured.agreement
    assert "## int8" in bundle.file("MODEL_CARD.md").read_text()
    old, new = (load(folder, provider="cpu") for folder in (cnn_bundle, bundle.folder))
    images = pixels(20)
    before, after = old.encoder.encode(images), new.encoder.encode(images)
    error = np.abs(before.reference_feature - after.reference_feature)
    assert 0 < error.mean() < 0.05
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_heavy_products_are_integers_and_no_scale_comes_from_the_batch(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path
) -> None:
    bundle, _, _ = quantize.run(cnn_bundle, tmp_path / "int8", photos)
    encoder, cell, readout = (
        onnx.load(bundle.folder / f"{name}.onnx").graph for name in ("encoder", "cell", "readout")
    )
    made = {output: node for node in encoder.node for output in node.output}
    convolutions = [node for node in encoder.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions:
        assert {made[name].op_type for name in node.input} == {"DequantizeLinear"}
    for graph in (encoder, cell, readout):
        kinds = [node.op_type for node in graph.node]
        assert "DynamicQuantizeLinear" not in kinds
        weights = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert set(node.input[1:]) <= weights.keys()
    for graph in (cell, readout):
        assert [node.op_type for node in graph.node].count("MatMulInteger") == 1


def test_no_result_depends_on_the_batch_by_a_single_bit(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path
) -> None:
    bundle, _, _ = quantize.run(cnn_bundle, tmp_path / "int8", photos)
    captioner = load(bundle.folder, provider="cpu", threads=1)
    images = pixels(7)
    images[3] = 255  # an outlier, which a scale of the batch would follow
    together = captioner.encoder.encode(images)
    state = captioner.model.start(together)
    tokens = np.arange(4, 11)
    scores, _ = captioner.model.step(tokens, state, 5, full=True)
    for place in range(len(images)):
        row = np.array([place])
        alone = captioner.encoder.encode(images[row])
        np.testing.assert_array_equal(
            alone.inputs["image_term"][0], state.arrays["image_term"][place]
        )
        single, _ = captioner.model.step(tokens[row], captioner.model.start(alone), 5, full=True)
        np.testing.assert_array_equal(single.log_probs[0], scores.log_probs[place])


def test_it_reproduces_itself_and_its_readout_agrees_with_its_cell(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path
) -> None:
    bundle, _, _ = quantize.run(cnn_bundle, tmp_path / "int8", photos)
    captioner = load(bundle.folder, provider="cpu", threads=1)
    report = replay_golden(bundle, captioner.encoder, captioner.model)
    assert set(report.differences.values()) == {0.0}
    scorer = load_scorer(captioner.model, [(4, 5, 6), (4, 7)])
    images = captioner.encoder.encode(pixels(3))
    np.testing.assert_allclose(
        scorer.log_probs(images), replace(scorer, readout=None).log_probs(images), atol=1e-5
    )


def test_rounding_takes_nothing_off_the_mean_of_a_channel(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    encoder (uint8[n, 16, 16, 3] image) => (float[n, 8] feature) {
        pixels = Cast <to = 1> (image)
        planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
        filtered = Conv (planes, weights, bias)
        feature = ReduceMean <axes = [2, 3], keepdims = 0> (filtered)
    }
    """
    rng = np.random.default_rng(0)
    arrays = {
        "weights": rng.standard_normal((8, 3, 2, 2)).astype(np.float32),
        "bias": np.zeros(8, np.float32),
    }
    # One large weight a channel makes the step coarse.
    arrays["weights"][:, 0, 0, 0] = 60
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    path = tmp_path / "encoder.onnx"
    onnx.save(model, path)
    images = pixels(32)
    before = run(path, images)
    assert quantize_convolutions(path, images) == 1
    weights = arrays["weights"]
    step = 60 / 64
    lost = (weights - np.rint(weights / step) * step).sum(axis=(1, 2, 3)) * images.mean()
    shift = (before - run(path, images)).mean(axis=0)
    assert np.abs(lost).max() > 100
    assert np.abs(shift).max() < 20


def run(path: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (feature,) = session.run(None, {"image": images})
    return feature


def test_the_vocabulary_product_is_off_by_no_more_than_rounding(make_tiny_bundle) -> None:
    folder = make_tiny_bundle()
    model = onnx.load(folder / "cell.onnx")
    weights = next(
        numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "v_output"
    )
    before = load(folder, provider="cpu")
    assert quantize_vocabulary(model)
    onnx.save(model, folder / "cell.onnx")
    write_manifest(folder, read_manifest(folder))
    after = load(folder, provider="cpu")
    images = before.encoder.encode(pixels(12))
    tokens = np.arange(12)
    scores = [
        captioner.model.step(tokens, captioner.model.start(images), 0, full=True)[0].log_probs
        for captioner in (before, after)
    ]
    half_input = np.abs(weights).sum(axis=0) / 127 / 2
    half_weight = len(weights) * np.abs(weights).max(axis=0) / 64 / 2 * (1 + 1 / 127)
    assert 0 < np.abs(scores[0] - scores[1]).max() <= 2 * (half_input + half_weight).max()


def test_what_has_no_convolution_or_no_tanh_stays_float(
    make_tiny_bundle, cnn_bundle: Path, photos: list[Example], tmp_path: Path
) -> None:
    _, _, kept = quantize.run(make_tiny_bundle(), tmp_path / "one", photos)
    assert len(kept) == 1
    assert "no convolution" in kept[0]
    open_ended = shutil.copytree(cnn_bundle, tmp_path / "two")
    cell = onnx.load(open_ended / "cell.onnx")
    for node in cell.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Relu"
    onnx.save(cell, open_ended / "cell.onnx")
    write_manifest(open_ended, read_manifest(open_ended))
    bundle, _, kept = quantize.run(open_ended, tmp_path / "three", photos)
    assert len(kept) == 1
    assert "does not follow a tanh" in kept[0]
    assert kept[0] in bundle.file("MODEL_CARD.md").read_text()
    shutil.copyfile(make_tiny_bundle() / "encoder.onnx", open_ended / "encoder.onnx")
    write_manifest(open_ended, read_manifest(open_ended))
    with pytest.raises(UsageError, match="nothing can become int8"):
        quantize.run(open_ended, tmp_path / "four", photos)


def test_too_little_agreement_writes_nothing(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BundleError, match=r"at least 101% are asked for: nothing was written"):
        quantize.run(cnn_bundle, tmp_path / "int8", photos, agreement=1.01)
    assert sorted(tmp_path.iterdir()) == before


def test_references_come_along(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path, caplog
) -> None:
    source = shutil.copytree(cnn_bundle, tmp_path / "source")
    records = [
        {"file": one.path.name, "captions": one.captions, "split": "train"} for one in photos
    ]
    corpus = photos[0].path.parent
    (corpus / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    made = tmp_path / "references"
    references.build(source, made, sets=[("folder", str(corpus))], keep_captions=True)
    references.add(made, source, reranker="consensus-cider", k=3, m=2, default=True)
    bundle, _, _ = quantize.run(source, tmp_path / "int8", photos)
    loaded, old = load_references(bundle), load_references(load_bundle(source))
    assert caplog.records == []
    assert loaded.images == old.images
    np.testing.assert_array_equal(loaded.features.numbers, old.features.numbers)
    facts = json.loads((bundle.folder / "references" / "references.json").read_text())
    assert facts["source"] == "folder train; features by the encoder of tiny 1.0"
    assert (bundle.folder / "references" / "captions.jsonl").read_bytes() == (
        made / "captions.jsonl"
    ).read_bytes()
    captions = list(load(bundle.folder, provider="cpu").caption(corpus, explain=True))
    # Its feature is not quite that of the same photo in the references, but the nearest.
    assert [Path(one.path).name for one in captions] == [
        one.neighbours[0].image for one in captions
    ]


def test_the_command(cnn_bundle: Path, photos: list[Example], tmp_path: Path, invoke) -> None:
    target = tmp_path / "int8"
    folder = photos[0].path.parent
    done = invoke("quantize", cnn_bundle, "-o", target, "--calibration", folder, "--name", "small")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [
        "size", "speed", "agreement", "captions"
    ]  # fmt: skip
    assert load_bundle(target).name == "small"
    assert load_bundle(target).training["quantized"]["photos"] == 10
    for words, arguments in {
        "exists already": [cnn_bundle, "-o", target, "--calibration", folder],
        "int8 already": [target, "-o", tmp_path / "b", "--calibration", folder],
        "photos are needed": [cnn_bundle, "-o", tmp_path / "b"],
        "no folder": [cnn_bundle, "-o", tmp_path / "b", "--dataset", "folder"],
        "no --dataset": [cnn_bundle, "-o", target, "--calibration", folder, "--root", folder],
        "limit must be": [cnn_bundle, "-o", tmp_path / "b", "--calibration", folder, "--limit", 0],
    }.items():
        refused = invoke("quantize", *arguments)
        assert isinstance(refused.exception, UsageError)
        assert words in str(refused.exception)


def test_the_command_with_a_data_set(
    cnn_bundle: Path, photos: list[Example], tmp_path: Path, invoke
) -> None:
    corpus = photos[0].path.parent
    records = [{"file": one.path.name, "captions": one.captions, "split": "dev"} for one in photos]
    (corpus / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    given = ["--dataset", f"folder:{corpus}", "--limit", 4]
    done = invoke("quantize", cnn_bundle, "-o", tmp_path / "int8", *given)
    assert done.exit_code == 0, done.output
    assert "CIDEr" in done.stdout
    assert load_bundle(tmp_path / "int8").training["quantized"]["photos"] == 4


def test_a_large_table_is_kept_in_bytes() -> None:
    import onnxruntime

    table = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32)
    table[:, 3] = 0
    table[:, 4] *= 100
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        lookup (int64[r] token) => (float[r, 12] word) {
            table = Cast <to = 1> (half)
            word = Gather (table, token)
        }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(table.astype(np.float16), "half"))
    assert quantize_tables(model) == 1
    assert {t.name for t in model.graph.initializer} == {"table0.whole", "table0.steps"}
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (words,) = session.run(None, {"token": np.arange(500)})
    step = np.abs(table).max(axis=0) / 127
    assert (np.abs(words - table) <= 0.51 * step + 1e-3 * np.abs(table)).all()
    assert np.abs(words - table).max() > 0
    assert quantize_tables(model) == 0  # bytes already


def test_a_large_matrix_is_kept_in_bytes_and_used_twice() -> None:
    import onnxruntime

    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((100, 60)).astype(np.float32)
    matrix[:, 3] = 0
    matrix[:, 4] *= 100
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        products (float[n, 100] x) => (float[n, 60] one, float[n, 60] two) {
            weights = Cast <to = 1> (half)
            one = MatMul (x, weights)
            y = Neg (x)
            two = MatMul (y, weights)
        }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(matrix.astype(np.float16), "half"))
    assert store_bytes(model) == 1
    assert {t.name for t in model.graph.initializer} == {"matrix0.whole", "matrix0.steps"}
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    one, two = session.run(None, {"x": np.eye(100, dtype=np.float32)})
    step = np.abs(matrix).max(axis=0) / 127
    assert (np.abs(one - matrix) <= 0.51 * step + 1e-3 * np.abs(matrix)).all()
    assert np.abs(one - matrix).max() > 0
    np.testing.assert_array_equal(two, -one)
