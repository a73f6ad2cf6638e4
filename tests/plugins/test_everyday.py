"""The model plugin for everyday photos: a name, a folder, and nothing else."""

import subprocess
import sys

import pytest

everyday = pytest.importorskip("mrnn_everyday")


def test_hook_module_is_light():
    code = (
        "import sys, mrnn_everyday as m; m.mrnn_models();"
        "print([n for n in ('torch', 'numpy', 'onnxruntime', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_component_names_the_bundles_folder():
    (component,) = everyday.mrnn_models()
    assert component.name == "everyday"
    folder = component.load()()
    assert folder == everyday.bundle_path()
    assert (folder.parent / "__init__.py").is_file()
