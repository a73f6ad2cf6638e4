"""Fitting the confidence of a bundle on photos with captions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mrnn_exporters import calibrate, plugin
from mrnn_runtime import UsageError, load, load_bundle

SENTENCES = ("a dog runs", "the dog runs on sand", "a man", "sand", "a dog", "two men run")


@pytest.fixture
def corpus(tmp_path: Path, make_photos) -> Path:
    """Photos of which the tiny bundle describes some better than others."""
    folder = tmp_path / "photos"
    paths = make_photos(folder, 24)
    lines = [
        {"file": p.name, "captions": [SENTENCES[i % 6], SENTENCES[i % 5]], "split": "dev"}
        for i, p in enumerate(paths)
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_a_fit_finds_the_probabilities_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal((-1, 5), (0.5, 2), (20_000, 2))
    truth = 1 / (1 + np.exp(-(1 + 2 * table[:, 0] + 0.3 * table[:, 1])))
    bias, *weights = calibrate.fit(table, rng.random(20_000) < truth)
    assert bias == pytest.approx(1, abs=0.15)
    assert weights == pytest.approx([2, 0.3], abs=0.1)
    with pytest.raises(UsageError, match="all captions are good or none is"):
        calibrate.fit(table, np.zeros(20_000, bool))


def test_a_bundle_gets_its_confidence_and_keeps_its_captions(
    tiny_bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    sets = [("folder", str(corpus))]
    before = [c.text for c in load(bundle, provider="cpu").caption(corpus)]
    report = calibrate.run(bundle, sets, good=0.2, names=("per_word", "length"))
    assert report.captions == 24
    assert sum(one.captions for one in report.bins) == 24
    assert abs(sum(b.captions * (b.confidence - b.good) for b in report.bins)) < 0.2  # of 24
    captions = list(load(bundle, provider="cpu").caption(corpus))
    assert [c.text for c in captions] == before
    mean = sum(b.captions * b.confidence for b in report.bins) / 24
    assert np.mean([c.confidence for c in captions]) == pytest.approx(mean, abs=1e-3)
    again = calibrate.run(bundle, sets, check=True)
    assert again == report
    assert load_bundle(bundle).training["calibration"]["captions"] == 24


def test_the_command(tiny_bundle: Path, corpus: Path, tmp_path: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    plugin.mrnn_commands(app)
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    given = ["calibrate", str(bundle), "--dataset", f"folder:{corpus}"]
    refused = CliRunner().invoke(app, [*given, "--check"])
    assert "has no confidence" in str(refused.exception)
    given += ["--good", "0.2"]
    manifest = (bundle / "bundle.json").read_bytes()
    refused = CliRunner().invoke(app, [*given, "--json", str(tmp_path / "none" / "report.json")])
    assert "none: no such folder" in str(refused.exception)
    assert (bundle / "bundle.json").read_bytes() == manifest
    done = CliRunner().invoke(app, [*given, "--json", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    assert "captions, CIDEr-D" in done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["spearman"].keys() == {"confidence", "per_word", "length", "image"}
    refused = CliRunner().invoke(app, [*given, "--signal", "luck"])
    assert "unknown signals" in str(refused.exception)
    for option in (["--good", "0.2"], ["--threshold", "0.9"], ["--signal", "length"]):
        refused = CliRunner().invoke(app, [*given[:4], "--check", *option])
        assert isinstance(refused.exception, UsageError), refused.output
        assert "as it was fitted" in str(refused.exception)


def test_a_signal_that_is_named_twice_counts_once(
    tiny_bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    fitted = []
    for names in (("length", "per_word"), ("length", "per_word", "length")):
        bundle = shutil.copytree(tiny_bundle, tmp_path / str(len(names)))
        calibrate.run(bundle, [("folder", str(corpus))], good=0.2, names=names)
        fitted.append(load_bundle(bundle).calibration)
    assert fitted[0] == fitted[1]
