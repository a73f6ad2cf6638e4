"""What is public, and what importing it costs."""

import ast
import importlib
import subprocess
import sys

import pytest

import mrnn_runtime
import mrnn_runtime.testing as kit
from mrnn_runtime import build, decoding

HEAVY = {"PIL", "numpy", "onnxruntime", "tokenizers", "torch"}


def loaded_by(code, watched=HEAVY):
    """Run code in a process of its own; return which of the watched modules it loaded."""
    script = f"{code}\nimport sys; print(*sys.modules, file=sys.__stderr__)"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return watched & set(child.stderr.split())


def test_all_is_sorted_and_is_what_can_be_imported():
    assert mrnn_runtime.__all__ == sorted(mrnn_runtime.__all__)
    assert set(mrnn_runtime.__all__) <= set(dir(mrnn_runtime))


def test_a_name_is_the_one_that_type_checkers_see():
    with open(mrnn_runtime.__file__, encoding="utf-8") as file:
        (checked,) = (
            node for node in ast.parse(file.read()).body if ast.unparse(node).startswith("if TYPE")
        )
    homes = {
        alias.name: node.module
        for node in ast.walk(checked)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {"__version__", *homes} == set(mrnn_runtime.__all__)
    for name, module in homes.items():
        assert getattr(mrnn_runtime, name) is getattr(importlib.import_module(module), name), name


@pytest.mark.parametrize("module", [build, decoding, kit])
def test_all_of_a_public_module_is_sorted_and_can_be_imported(module):
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_kit_needs_no_test_framework_and_no_trainer():
    watched = {"pytest", "torch", "onnx", "onnxruntime", "mrnn_exporters"}
    assert loaded_by("import mrnn_runtime.testing", watched) == set()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        mrnn_runtime.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import mrnn_runtime",
        "from mrnn_runtime import Component, DecodeOptions, MrnnError, hookimpl",
        "from mrnn_runtime import Bundle, load_bundle",
        "from mrnn_runtime.plugins.manager import manager; manager()",
        "from mrnn_runtime.cli import build; build()",
    ],
)
def test_light_parts_load_nothing_heavy(code):
    assert loaded_by(code) == set()


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["caption", "--help"], ["plugins"]])
def test_the_command_line_loads_nothing_heavy_where_it_needs_nothing(args):
    code = f"""
from mrnn_runtime.cli import main
try:
    main({args!r})
except SystemExit as exit:
    assert not exit.code
"""
    assert loaded_by(code) == set()


def test_captions_need_none_of_the_rooms_that_do_not_count_for_them(tiny_bundle):
    caption = f"""
from pathlib import Path
import numpy as np
from mrnn_runtime import load
captioner, image = load(Path({str(tiny_bundle)!r})), np.zeros((9, 9, 3), np.uint8)
for decoder in ("greedy", "beam", "sample"):
    assert list(captioner.caption(image, decoder=decoder, reranker="log-prob"))
"""
    rooms = {"mrnn_runtime." + room for room in ("build", "cli", "retrieval", "testing")}
    assert loaded_by(caption, rooms) == set()
    assert loaded_by("import mrnn_runtime.build", rooms) >= {"mrnn_runtime.build"}


def test_the_runtime_never_loads_torch():
    code = "import mrnn_runtime; [getattr(mrnn_runtime, name) for name in mrnn_runtime.__all__]"
    assert "torch" not in loaded_by(code)


def test_the_probe_sees_what_is_loaded():
    assert "numpy" in loaded_by("from mrnn_runtime import Captioner")
