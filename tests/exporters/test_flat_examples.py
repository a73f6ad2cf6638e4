"""What docs/how-to/one-file.md runs beside Python: the same file in Node and from C++."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from mrnn_exporters import flatten
from mrnn_runtime import load

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = Path(__file__).parents[2] / "docs" / "demo" / "photos"

pytest.importorskip("mrnn_flickr8k")


@pytest.fixture(scope="module")
def flat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flat") / "caption.onnx"
    flatten.run("flickr8k", path, resize_inside=True)
    return path


def assert_captions(command: list[Path | str], flat_file: Path) -> None:
    """Run a program and hold what it prints against what the package finds."""
    photos = [PHOTOS / "dog.jpg", PHOTOS / "horses.jpg"]
    done = subprocess.run(
        [*command, flat_file, *photos], capture_output=True, text=True, check=False
    )
    captions = list(load("flickr8k", provider="cpu", threads=1).caption(photos))
    wanted = [f"{photo}\t{one.text}" for photo, one in zip(photos, captions, strict=True)]
    assert done.stdout.splitlines() == wanted, done.stderr
    assert captions[0].text == "a german shepherd is running through the grass"


def test_node(flat_file: Path) -> None:
    node, example = shutil.which("node"), EXAMPLES / "node"
    if node is None or not (example / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("needs Node, and npm install --ignore-scripts in examples/node")
    assert_captions([node, example / "caption.mjs"], flat_file)


def test_cpp(flat_file: Path, tmp_path: Path) -> None:
    compiler, example = shutil.which("c++"), EXAMPLES / "cpp"
    library = example / "ort" / "lib"
    if compiler is None or not (library / "libonnxruntime.so.1").exists():
        pytest.skip("needs a C++ compiler, libjpeg, and examples/cpp/fetch.sh")
    if platform.machine() != "x86_64":
        pytest.skip("examples/cpp/fetch.sh fetches a library for x64")
    program = tmp_path / "caption"
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-Wall", "-Wextra", example / "caption.cpp", "-o", program),
            *("-I", example / "ort" / "include", "-L", library, f"-Wl,-rpath,{library}"),
            *("-lonnxruntime", "-ljpeg"),
        ],
        check=True,
    )
    assert_captions([program], flat_file)
    refused = subprocess.run([program], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
