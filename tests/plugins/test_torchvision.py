"""The torchvision backbones: what they compute, how they are named, and which weights they take."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")
backbones = pytest.importorskip("mrnn_torchvision.backbones")

from mrnn_runtime import MrnnError, UsageError  # noqa: E402
from mrnn_torchvision import CLASSIFIERS, mrnn_backbones  # noqa: E402


def photos(n, pixels=224):
    """Return n different uint8 images, the later the darker."""
    noise = np.random.default_rng(0).integers(0, 256, (n, pixels, pixels, 3))
    return torch.from_numpy((noise // np.arange(1, n + 1).reshape(n, 1, 1, 1)).astype(np.uint8))


def component(name):
    return next(each for each in mrnn_backbones() if each.name == name)


def test_hook_module_is_light():
    code = (
        "import sys, mrnn_torchvision as m; m.mrnn_backbones();"
        "print([n for n in ('torch', 'numpy', 'onnxruntime', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_classifier_of_torchvision_is_there():
    assert sorted(CLASSIFIERS) == sorted(models.list_models(module=models))


def test_every_target_is_there_and_nothing_else():
    assert all(callable(each.load()) for each in mrnn_backbones())
    with pytest.raises(AttributeError, match="resnet51"):
        _ = backbones.resnet51


@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 4096), ("mobilenet-v3-large", 960), ("squeezenet1-1", 512)]
)
def test_the_feature(name, size):
    backbone = component(name).load()("random")
    images = photos(2)
    with torch.no_grad():
        together = backbone.module(images)
        alone = torch.cat([backbone.module(image[None]) for image in images])
    assert together.shape == (2, backbone.feature_size) == (2, size)
    assert together.dtype == torch.float32
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4 * together.abs().max().item())
    assert (together[0] - together[1]).abs().max() > 0.1
    assert not backbone.module.training
    assert backbone.weights_id == "random"
    assert (backbone.preprocess.height, backbone.preprocess.resize) == (224, "crop")


def test_alexnets_feature_is_fc7_after_its_relu():
    backbone = backbones.alexnet("random")
    net = backbone.module.net
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        normal = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        fc7 = net.classifier[:6](torch.flatten(net.avgpool(net.features(normal)), 1))
        assert torch.allclose(backbone.module(pixels), fc7, atol=1e-4)
        assert fc7.min() == 0


def test_input_size_and_interpolation_are_those_of_the_weights():
    inception = backbones.inception_v3("random").preprocess
    assert (inception.height, inception.width, inception.interpolation) == (299, 299, "bilinear")
    assert backbones.efficientnet_b0("random").preprocess.interpolation == "bicubic"


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit_b_32"])
def test_onnx_runtime_computes_the_same(name, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    module = backbones.build(name, "random").module
    images = photos(2)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter itself
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            module,
            (images[:1],),
            tmp_path / "net.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["feature"],
            dynamic_axes={"image": {0: "n"}, "feature": {0: "n"}},
        )
        expected = module(images).numpy()
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (feature,) = session.run(None, {"image": images.numpy()})
    np.testing.assert_allclose(feature, expected, atol=1e-4)


def test_random_is_always_the_same():
    first = backbones.squeezenet1_1("random").module.state_dict()
    second = backbones.squeezenet1_1("random").module.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix):
    file = tmp_path / f"mine{suffix}"
    state = models.squeezenet1_1().state_dict()
    if suffix == ".pth":
        torch.save(state, file)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, file)
    backbone = backbones.squeezenet1_1(str(file))
    loaded = backbone.module.net.state_dict()
    assert all(torch.equal(state[key], loaded[key]) for key in loaded)
    assert len(backbone.weights_id) == 12


def test_old_densenet_files(tmp_path):
    state = models.densenet121().state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): state[key] for key in state
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    net = backbones.densenet121(str(tmp_path / "old.pth")).module.net
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(net.state_dict()[key], state[key])


def test_a_word_that_means_nothing():
    with pytest.raises(UsageError, match="resnet50 has no weights 'imagenet'") as caught:
        backbones.resnet50("imagenet")
    assert "default, IMAGENET1K_V1, IMAGENET1K_V2, random" in caught.value.hint


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a state dict", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_state_dict(tmp_path, content, suffix):
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot load .*bad"):
        backbones.squeezenet1_1(str(file))


@pytest.mark.parametrize("weights", ["default", "IMAGENET1K_V1"])
def test_no_network(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(MrnnError, match="IMAGENET1K_V1 of squeezenet1_1") as caught:
        backbones.squeezenet1_1(weights)
    assert "path of the file" in caught.value.hint
