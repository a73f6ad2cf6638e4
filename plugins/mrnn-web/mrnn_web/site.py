"""The static folder: page, model, ONNX Runtime for the browser, licences."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime import PluginError

if TYPE_CHECKING:
    from mrnn_runtime import Bundle

_HERE = Path(__file__).parent
PAGE = _HERE / "page"
_ORT = _HERE / "ort"
_LICENCES = """\
The page is part of mrnn-web, Apache-2.0.
ONNX Runtime for the browser, in ort/: MIT, see licences/onnxruntime-web.txt.
The model, {name} {version}: {licence}; see licences/model-card.md.
"""


def build(
    model: str,
    output: Path,
    *,
    decoder: str | None = None,
    beam_size: int | None = None,
    n_best: int = 5,
) -> Bundle:
    """Write a site; where that fails, nothing is left of it.

    Args:
        model: an installed model's name, or the folder of a bundle.
        output: the folder; must be new or empty.
        decoder: ``greedy`` or ``beam``; None is the model's.
        beam_size: hypotheses kept; None is as the model says.
        n_best: captions shown for a photo.

    Raises:
        UsageError: the folder is in use, or an option is out of range.
        PluginError: mrnn-exporters or onnxruntime-web is missing.
        BundleError: the model does not load, or the folder cannot be written.
    """
    if not (_ORT / "version.json").is_file():
        raise PluginError(
            "mrnn-web was installed without onnxruntime-web",
            hint="install npm, then run python plugins/mrnn-web/fetch_ort.py",
        )
    if importlib.util.find_spec("mrnn_exporters") is None:
        raise PluginError("mrnn web needs mrnn-exporters", hint="pip install mrnn-exporters")
    from mrnn_exporters.folders import new_folder

    with new_folder(output) as folder:
        return _write(model, folder, decoder, beam_size, n_best)


def _write(
    model: str, output: Path, decoder: str | None, beam_size: int | None, n_best: int
) -> Bundle:
    from mrnn_exporters import flatten

    shutil.copytree(PAGE, output, dirs_exist_ok=True)
    shutil.copytree(_ORT, output / "ort")
    shutil.copytree(_HERE / "licences", output / "licences")
    bundle = flatten.run(
        model,
        output / "model.onnx",
        decoder=decoder,
        confidence=None,  # where the model has one for this search
        beam_size=beam_size,
        n_best=n_best,
    )
    facts = {
        "name": bundle.name,
        "version": bundle.version,
        "licence": bundle.licence,
        "decoder": decoder or bundle.decoder,
        "preprocess": asdict(bundle.preprocess),
    }
    (output / "model.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if "MODEL_CARD.md" in bundle.files:
        shutil.copyfile(bundle.file("MODEL_CARD.md"), output / "licences" / "model-card.md")
    (output / "licences.txt").write_text(_LICENCES.format(**facts), encoding="utf-8")
    _fill(output / "index.html", 'content="server"', 'content="browser"')
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    names = {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in files
        if path.name != "sw.js"  # a browser looks at this one by itself
    }
    _fill(output / "sw.js", "const FILES = {};", f"const FILES = {json.dumps(names, indent=2)};")
    return bundle


def _fill(file: Path, place: str, text: str) -> None:
    """Put a text in the one place of a file that is meant for it."""
    content = file.read_text(encoding="utf-8")
    assert content.count(place) == 1, f"{file.name} has no one place {place!r}"
    file.write_text(content.replace(place, text), encoding="utf-8")
