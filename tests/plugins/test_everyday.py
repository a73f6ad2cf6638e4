"""The model plugin for everyday photos: a name, a folder, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from mrnn_runtime import load

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


def test_the_bundle_is_small_and_holds_no_readable_caption():
    folder = everyday.bundle_path()
    sizes = {p.relative_to(folder).parts[0]: 0 for p in folder.rglob("*")}
    for file in folder.rglob("*"):
        sizes[file.relative_to(folder).parts[0]] += file.stat().st_size if file.is_file() else 0
    assert sum(size for name, size in sizes.items() if name != "references") <= 30e6
    assert sum(sizes.values()) <= 40e6
    assert not list(folder.rglob("captions*"))


def test_it_says_what_it_sees_and_how_sure_it_is():
    pytest.importorskip("onnxruntime")
    photos = Path(__file__).parents[2] / "docs" / "demo" / "photos"
    captioner = load("everyday", provider="cpu")
    captions = {Path(c.path).stem: c for c in captioner.caption(photos)}
    assert "cat" in captions["cat"].text.split()
    assert {"dog", "shepherd"} & set(captions["dog"].text.split())
    assert all(0 < caption.confidence < 1 for caption in captions.values())
