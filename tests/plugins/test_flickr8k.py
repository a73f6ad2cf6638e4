"""The model plugins of Flickr8k: a name, a folder, and nothing else."""

import subprocess
import sys

import pytest

from mrnn_runtime import load_bundle

flickr8k = pytest.importorskip("mrnn_flickr8k")
NAMES = {"flickr8k": "mrnn_flickr8k", "flickr8k-int8": "mrnn_flickr8k_int8"}


@pytest.mark.parametrize("module", NAMES.values())
def test_hook_module_is_light(module):
    pytest.importorskip(module)
    code = (
        f"import sys, {module} as m; m.mrnn_models();"
        "print([n for n in ('torch', 'numpy', 'onnxruntime', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_the_component_names_the_bundles_folder(name):
    package = pytest.importorskip(NAMES[name])
    (component,) = package.mrnn_models()
    assert component.name == name
    folder = component.load()()
    assert folder == package.bundle_path()
    assert (folder.parent / "__init__.py").is_file()


def test_int8_is_the_same_model_made_smaller_and_held_against_it():
    int8 = load_bundle(pytest.importorskip("mrnn_flickr8k_int8").bundle_path())
    fp32 = load_bundle(flickr8k.bundle_path())
    assert (int8.precision, fp32.precision) == ("int8", "fp32")
    assert int8.file("tokenizer.json").read_bytes() == fp32.file("tokenizer.json").read_bytes()
    sizes = [sum(f.bytes for n, f in b.files.items() if ".onnx" in n) for b in (int8, fp32)]
    assert sizes[0] < 0.6 * sizes[1]
    assert int8.training["quantized"]["agreement"] >= 0.95
