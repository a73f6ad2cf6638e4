"""``mrnn web``, and the parts of its page that need no browser: they run in Node."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from mrnn_runtime import UsageError
from mrnn_runtime.cli.results import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

mrnn_web = pytest.importorskip("mrnn_web")
site = pytest.importorskip("mrnn_web.site")
PLUGIN = Path(__file__).parents[2] / "plugins" / "mrnn-web"

needs_ort = pytest.mark.skipif(
    not (PLUGIN / "mrnn_web" / "ort" / "version.json").is_file(),
    reason="onnxruntime-web was not fetched: python plugins/mrnn-web/fetch_ort.py",
)


@pytest.fixture
def node() -> Callable[..., bytes]:
    """Run a module in Node: ``node(code, stdin) -> stdout``."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node here")

    def run(code: str, given: bytes = b"") -> bytes:
        command = [program, "--input-type=module", "--eval", code]
        done = subprocess.run(command, input=given, capture_output=True, cwd=site.PAGE, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


SCALE = """
import { readFileSync } from "node:fs";
import { scale } from "./pixels.js";
const given = readFileSync(0);
const end = given.indexOf(10);
const { width, height, recipe } = JSON.parse(given.subarray(0, end));
const data = new Uint8ClampedArray(given.subarray(end + 1));
process.stdout.write(scale({ width, height, data }, recipe));
"""
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize(
    "size", [(500, 375), (333, 500), (99, 432), (40, 31), (26, 26), (61, 1), (1, 97)]
)
def test_pixels_are_those_of_pillow_bit_by_bit(
    node: Callable[..., bytes], interpolation: str, resize: str, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(size[0])
    pixels = rng.choice(np.uint8([0, 1, 100, 254, 255]), (size[1], size[0], 3))
    recipe = {"height": 26, "width": 32, "resize": resize, "interpolation": interpolation}
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    facts = json.dumps({"width": size[0], "height": size[1], "recipe": recipe}).encode()
    read_pixels = np.frombuffer(node(SCALE, facts + b"\n" + rgba.tobytes()), np.uint8)
    image, kind = Image.fromarray(pixels), RESAMPLING[interpolation]
    wanted = (
        ImageOps.fit(image, (32, 26), kind) if resize == "crop" else image.resize((32, 26), kind)
    )
    np.testing.assert_array_equal(read_pixels.reshape(26, 32, 3), np.asarray(wanted))


def test_alt_text_is_escaped(node: Callable[..., bytes]) -> None:
    record = {"path": 'two words/a"b#(1).jpg', "caption": 'a "man" [on] <grass> & snow'}
    code = f"""
    import {{ formats }} from "./output.js";
    const record = {json.dumps(record)};
    const kinds = ["text", "html", "markdown"];
    console.log(JSON.stringify(kinds.map((kind) => formats[kind](record))));
    """
    text, html, markdown = json.loads(node(code))
    assert text == record["caption"]
    url = "two%20words/a%22b%23%281%29.jpg"
    alt = "a &quot;man&quot; [on] &lt;grass&gt; &amp; snow"
    assert html == f'<img src="{url}" alt="{alt}">'
    assert markdown == f'![a "man" \\[on\\] <grass> & snow]({url})'


def test_csv_and_json_are_what_the_command_line_writes(node: Callable[..., bytes]) -> None:
    photos = [
        {"path": 'a,"b".jpg', "record": {"path": 'a,"b".jpg', "caption": "a dog", "log_prob": -2.5,
                                         "finished": True, "confidence": 0.25, "candidates": []}},
        {"path": "b.jpg", "error": "it is\nbroken"},
        {"path": "waits.jpg"},
    ]  # fmt: skip
    code = f"""
    import {{ csv, json }} from "./output.js";
    const photos = {json.dumps(photos)};
    console.log(JSON.stringify([csv(photos), json(photos)]));
    """
    table, text = json.loads(node(code))
    assert list(csv.reader(io.StringIO(table))) == [
        list(COLUMNS),
        ['a,"b".jpg', "a dog", "-2.5", "true", "0.25", ""],
        ["b.jpg", "", "", "", "", "it is\nbroken"],
    ]
    assert json.loads(text) == [photos[0]["record"], {"path": "b.jpg", "error": "it is\nbroken"}]


@needs_ort
def test_a_site_is_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("mrnn_exporters")
    bundle = site.build(str(tiny_bundle), tmp_path / "site", n_best=2)
    assert bundle.name == "tiny"
    folder = tmp_path / "site"
    facts = json.loads((folder / "model.json").read_text())
    assert facts["preprocess"]["interpolation"] == "bilinear"
    assert (facts["name"], facts["decoder"]) == ("tiny", "beam")
    assert 'name="mrnn-captions-by" content="browser"' in (folder / "index.html").read_text()
    listed = re.search(r"const FILES = (\{.*?\});", (folder / "sw.js").read_text(), re.DOTALL)
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in folder.rglob("*")
        if path.is_file() and path.name != "sw.js"
    }
    assert json.loads(listed[1]) == files
    assert {
        "index.html",
        "model.onnx",
        "licences/onnxruntime-web.txt",
        "licences.txt",
    } <= files.keys()
    assert "CC0-1.0" in (folder / "licences.txt").read_text()


@needs_ort
def test_nothing_of_ours_names_another_machine(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("mrnn_exporters")
    site.build(str(tiny_bundle), tmp_path / "site")
    for file in (tmp_path / "site").iterdir():
        if file.suffix in (".html", ".css", ".js", ".webmanifest", ".json"):
            assert not re.search(r"(https?:)?//[a-z]", file.read_text()), file


@pytest.fixture
def no_ort(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder where onnxruntime-web would be."""
    pytest.importorskip("mrnn_exporters")
    folder = tmp_path_factory.mktemp("ort")
    (folder / "version.json").write_text("{}")
    monkeypatch.setattr(site, "_ORT", folder)


@pytest.mark.usefixtures("no_ort")
def test_a_folder_in_use_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="exists already"):
        site.build(str(tiny_bundle), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("no_ort")
def test_a_site_that_fails_can_be_tried_again(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        site.build(str(tiny_bundle), tmp_path / "site", decoder="sample")
    assert list(tmp_path.iterdir()) == []
    site.build(str(tiny_bundle), tmp_path / "site", decoder="greedy")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    assert (tmp_path / "site" / "ort" / "version.json").is_file()


def test_an_install_without_onnxruntime_web_says_what_to_do(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "_ORT", tmp_path / "none")
    with pytest.raises(Exception, match="without onnxruntime-web") as caught:
        site.build(str(tiny_bundle), tmp_path / "site")
    assert "fetch_ort.py" in caught.value.hint
    assert not (tmp_path / "site").exists()


def test_the_lock_file_pins_what_is_fetched() -> None:
    locked = json.loads((PLUGIN / "package-lock.json").read_text())
    wanted = json.loads((PLUGIN / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    package = locked["packages"]["node_modules/onnxruntime-web"]
    assert package["version"] == wanted
    assert package["integrity"].startswith("sha512-")
    assert "resolved" not in package  # no registry's address
