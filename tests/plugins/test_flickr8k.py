"""The model plugin: a name, a folder, and nothing else."""

import subprocess
import sys

import pytest

flickr8k = pytest.importorskip("mrnn_flickr8k")


def test_hook_module_is_light():
    code = (
        "import sys, mrnn_flickr8k as m; m.mrnn_models();"
        "print([n for n in ('torch', 'numpy', 'onnxruntime', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_component_names_the_bundles_folder():
    (component,) = flickr8k.mrnn_models()
    assert component.name == "flickr8k"
    folder = component.load()()
    assert folder == flickr8k.bundle_path()
    assert (folder.parent / "__init__.py").is_file()
