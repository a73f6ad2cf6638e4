"""The way from photos and captions to a bundle, on a corpus drawn for the test."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from mrnn_exporters import (
    averaging,
    datasets,
    export,
    flatten,
    parity,
    plugin,
    quantize,
    retrieval,
    train,
)
from mrnn_exporters.nets import pack
from mrnn_exporters.runs import Run, TrainConfig, build_backbone
from mrnn_exporters.starts import open_start
from mrnn_runtime import load
from mrnn_runtime.engine.flat import open_flat
from mrnn_runtime.errors import BundleError, PluginError, UsageError
from mrnn_runtime.images import read_image
from mrnn_runtime.plugins.manager import manager
from mrnn_runtime.retrieval.ranking import load_background
from mrnn_runtime.retrieval.scorer import load_scorer

pytestmark = pytest.mark.slow

SHADES = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
GROUNDS = {"snow": (240, 240, 250), "night": (10, 10, 30)}
SPLITS = {"train": 12, "dev": 4, "test": 2}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in Flickr8k's own format: coloured squares on two grounds, two captions each."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for split, count in SPLITS.items():
        names = []
        for i in range(count):
            shade, ground = rng.choice(list(SHADES)), rng.choice(list(GROUNDS))
            pixels = np.full((64, 64, 3), GROUNDS[ground], np.uint8)
            top, left = rng.integers(4, 28, 2)
            pixels[top : top + 32, left : left + 32] = SHADES[shade]
            name = f"{split}{i}.jpg"
            Image.fromarray(pixels).save(root / "images" / name, quality=95)
            lines.append(f"{name}#0\tA {shade} square in the {ground} .")
            lines.append(f"{name}#1\tThe {ground} 's square is {shade} .")
            names.append(name)
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def config(corpus: Path) -> TrainConfig:
    return TrainConfig(
        datasets=(("flickr8k", str(corpus)),),
        backbone="efficientnet-lite0",
        weights="random",
        sizes={"embedding": 8, "word": 16, "recurrent": 16, "multimodal": 24, "dropout": 0.1},
        min_count=1,
        epochs=20,
        patience=20,
        batch_size=4,
        learning_rate=0.01,
        average=0.5,
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def trained(config: TrainConfig, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train.run(config, tmp_path_factory.mktemp("run") / "m-rnn", cache=cache)


@pytest.fixture(scope="session")
def exported(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "squares"
    export.run(trained.folder, folder, name="squares", licence="CC0-1.0", summary="squares")
    return folder


def test_training_lowers_perplexity_and_says_what_it_did(trained: Run) -> None:
    vocabulary = trained.facts["vocabulary_size"]
    assert trained.facts["dev_perplexity"] < vocabulary / 2
    assert trained.facts["epochs"] == 20
    assert trained.facts["photos"] == {"train": 12, "dev": 4}
    assert json.loads((trained.folder / "run.json").read_text())["config"]["cell"] == "m-rnn"


def test_the_bundle_captions_photos(exported: Path, corpus: Path) -> None:
    captions = list(load(exported, provider="cpu").caption([corpus / "images"]))
    assert len(captions) == sum(SPLITS.values())
    assert all(c.error is None and c.text and c.log_prob < 0 for c in captions)
    assert "square" in " ".join(c.text for c in captions)


def test_the_bundle_says_how_close_it_is_to_torch(exported: Path) -> None:
    report = json.loads((exported / "bundle.json").read_text())["training"]["export"]
    assert report["photos"] == SPLITS["dev"]
    assert report["captions"] == 0
    assert 0 <= report["log_prob"] <= parity.TOLERANCE
    assert 0 < report["step"] <= parity.TOLERANCE
    assert report["log_prob"] < report["rounding"] <= parity.ROUNDING


def test_no_place_of_the_training_machine_is_in_the_bundle(exported: Path, corpus: Path) -> None:
    for file in exported.iterdir():
        assert str(corpus).encode() not in file.read_bytes(), file.name


def test_an_export_that_differs_is_refused(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write_graphs

    def drift(*args: object) -> object:
        graph, step = write(*args)
        step.bias.data[4] += 0.01
        return graph, step

    monkeypatch.setattr(export, "_write_graphs", drift)
    with pytest.raises(BundleError, match="torch disagree on 4 photos"):
        export.run(trained.folder, tmp_path / "b", name="b")
    assert not list(tmp_path.iterdir()), "the next try finds nothing in its way"


def test_weights_that_float16_does_not_hold_are_refused() -> None:
    fine = parity.Parity(photos=4, log_prob=1e-6, step=1e-6, rounding=1e-3, captions=0)
    parity.refuse(fine, "m-rnn")
    with pytest.raises(BundleError, match="float16"):
        parity.refuse(replace(fine, rounding=0.1), "m-rnn")


@pytest.mark.parametrize("cell", sorted(manager().components("cells")))
def test_every_cell_trains_exports_and_captions(
    cell: str, config: TrainConfig, cache: Path, corpus: Path, tmp_path: Path
) -> None:
    run = train.run(replace(config, cell=cell, epochs=1), tmp_path / "run", cache=cache)
    _, result = export.run(run.folder, tmp_path / "b", name=cell)
    assert result.captions == 0
    captioner = load(tmp_path / "b", provider="cpu")
    captions = list(captioner.caption([corpus / "images"]))
    assert all(c.text and c.error is None for c in captions)
    flatten.run(tmp_path / "b", tmp_path / "caption.onnx")
    pixels = np.stack([read_image(c.path, captioner.bundle.preprocess) for c in captions])
    flat = open_flat(tmp_path / "caption.onnx", "cpu").session
    words, log_probs = flat.run(["caption", "log_prob"], {"image": pixels})
    assert ["".join(row[0]) for row in words] == [c.text for c in captions]
    np.testing.assert_allclose(log_probs[:, 0], [c.log_prob for c in captions], atol=1e-5)
    # The language half stands alone exactly where the image enters in the multimodal layer only.
    bundle = captioner.bundle
    assert (bundle.readout is not None) == (bundle.image_inputs == ("image_term",))
    sees = bool(bundle.image_inputs) or any(state.init != "zeros" for state in bundle.state)
    assert ("background.npz" in bundle.files) == sees
    task = {"dataset": "flickr8k", "root": corpus, "cache": tmp_path, "provider": "cpu"}
    if not sees:
        with pytest.raises(UsageError, match="never sees the image"):
            retrieval.run(tmp_path / "b", **task)
        return
    result = retrieval.run(tmp_path / "b", background=5, **task)
    assert (result.images, result.sentences, result.background) == (2, 4, 5)
    if bundle.readout is not None:
        images = load_background(bundle).take(np.arange(3))
        sentences = [captioner.vocabulary.encode(c.text) for c in captions]
        scorer = load_scorer(captioner.model, sentences)
        whole = replace(scorer, readout=None).log_probs(images)
        np.testing.assert_allclose(scorer.log_probs(images), whole, atol=1e-4)


def test_weights_that_two_graphs_share_are_stored_once(exported: Path) -> None:
    assert (exported / "readout.onnx").stat().st_size < 4096
    names = {
        entry.value
        for tensor in onnx.load(
            exported / "readout.onnx", load_external_data=False
        ).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert names == {"cell.onnx.data"}


def test_neighbours_may_be_looked_for_by_the_feature_of_the_cnn(
    trained: Run, corpus: Path, tmp_path: Path
) -> None:
    photos = sorted((corpus / "images").iterdir())[:2]
    bundle, _ = export.run(trained.folder, tmp_path / "b", name="b", reference="cnn", photos=photos)
    backbone = build_backbone(trained.config)
    pixels = np.stack([read_image(photo, bundle.preprocess) for photo in photos])
    encoded = load(tmp_path / "b", provider="cpu").encoder.encode(pixels)
    with torch.no_grad():
        expected = backbone.module(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(encoded.reference_feature, expected, rtol=0.02, atol=0.02)
    with pytest.raises(UsageError, match="unknown reference feature"):
        export.run(trained.folder, tmp_path / "c", name="c", reference="raw")


def test_a_killed_run_resumes_to_the_same_weights(
    trained: Run, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    """The process dies in the middle of the second epoch, as by kill -9."""
    script = f"""
import os
from pathlib import Path
from mrnn_exporters import train
from mrnn_exporters.runs import TrainConfig
before = train.Trainee.training_step
def training_step(self, batch, batch_idx):
    if self.current_epoch == 1 and batch_idx == 1:
        os._exit(9)
    return before(self, batch, batch_idx)
train.Trainee.training_step = training_step
config = TrainConfig.from_dict({json.loads((trained.folder / "config.json").read_text())!r})
train.run(config, Path({str(tmp_path / "run")!r}), cache=Path({str(cache)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == 9, killed.stderr.decode()
    with pytest.raises(UsageError, match="no finished run"):
        Run.open(tmp_path / "run")
    resumed = train.run(config, tmp_path / "run", cache=cache, resume=True)
    unbroken = load_file(trained.folder / "weights.safetensors")
    again = load_file(resumed.folder / "weights.safetensors")
    assert all(torch.equal(again[name], unbroken[name]) for name in unbroken)
    curve = trained.facts["curve"]
    assert len(curve) == trained.facts["epochs"]
    assert min(curve) == trained.facts["dev_perplexity"]
    assert resumed.facts["curve"] == curve
    metrics = (trained.folder / "lightning" / "metrics.csv").read_text()
    assert len(metrics.splitlines()) == 1 + 2 * trained.facts["epochs"]
    assert (resumed.folder / "lightning" / "metrics.csv").read_text() == metrics
    assert train.run(config, tmp_path / "run", cache=cache, resume=True).facts["curve"] == curve
    assert (resumed.folder / "lightning" / "metrics.csv").read_text() == metrics


def test_the_last_stages_of_the_cnn_learn_too(
    trained: Run,
    config: TrainConfig,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "cache"
    tuning = replace(config, finetune=2, finetune_rate=0.5, epochs=2)
    run = train.run(tuning, tmp_path / "run", cache=own)
    frozen, tuned = build_backbone(tuning), run.backbone()
    before, after = frozen.module.state_dict(), tuned.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    blocks = len(frozen.module.net._blocks)
    assert all(
        name.startswith(("net._conv_head", f"net._blocks.{blocks - 1}.")) for name in changed
    )
    assert not any("_bn" in name for name in changed)
    assert not (trained.folder / "tail.safetensors").exists()

    bundle, _ = export.run(run.folder, tmp_path / "bundle", name="tuned")
    paths = sorted((corpus / "images").iterdir())[:3]
    pixels = np.stack([read_image(path, bundle.preprocess) for path in paths])
    encoded = load(bundle.folder, provider="cpu").encoder.encode(pixels).inputs["image_term"]
    with torch.no_grad():
        one, other = (
            run.cell().encode(backbone.module(torch.from_numpy(pixels)))[0].numpy()
            for backbone in (tuned, frozen)
        )
    np.testing.assert_allclose(encoded, one, atol=0.02)  # weights were rounded to float16
    assert np.abs(one - other).max() > 0.1

    step = train.Trainee.training_step

    def dies(self: train.Trainee, batch: train.Batch, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainee, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train.run(tuning, tmp_path / "again", cache=own)
    again = train.run(tuning, tmp_path / "again", cache=own, resume=True)
    for file in ("weights.safetensors", "tail.safetensors"):
        ours, theirs = load_file(run.folder / file), load_file(again.folder / file)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    further = replace(tuning, start=str(run.folder), learning_rate=1e-9, epochs=1)
    kept = train.run(further, tmp_path / "further", cache=own)
    assert kept.facts["dev_perplexity"] == pytest.approx(run.facts["dev_perplexity"], rel=1e-3)
    for start, stages in ((run.folder, 1), (bundle.folder, 2)):
        with pytest.raises(UsageError, match="trained") as said:
            refused = replace(tuning, start=str(start), finetune=stages)
            train.run(refused, tmp_path / "refused", cache=own)
        assert stages == 2 or "--finetune" in said.value.hint
    with pytest.raises(UsageError, match="train no CNN"):
        train.run(replace(tuning, sentences="s.txt"), tmp_path / "refused", cache=own)
    with pytest.raises(UsageError, match="has no split"):
        alien = replace(tuning, backbone="squeezenet1-1")
        train.run(alien, tmp_path / "refused", cache=own)


def test_a_run_goes_on_with_a_reward(
    trained: Run, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    finish = replace(config, start=str(trained.folder), reward=1.0, epochs=1, learning_rate=1e-3)
    finished = train.run(finish, tmp_path / "run", cache=cache)
    export.run(finished.folder, tmp_path / "b", name="b")
    assert str(trained.folder.parent) not in (tmp_path / "b" / "bundle.json").read_text()
    assert finished.facts["best_epoch"] == 1
    # It starts where the other run ended, so one short epoch cannot be far from there.
    assert finished.facts["dev_perplexity"] < 1.5 * trained.facts["dev_perplexity"]


def test_the_language_half_learns_from_sentences_and_then_sees(
    config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sentences.tsv"
    file.write_text("drawn\tA yellow square in the night .\n" * 40, encoding="utf-8")
    text = replace(config, sentences=str(file), epochs=2, patience=2)
    spoken = train.run(text, tmp_path / "language", cache=tmp_path / "unused")
    assert not (tmp_path / "unused").exists()  # no photo was looked at
    assert spoken.facts["captions"] == {"train": 64, "dev": 8}
    words = json.loads((spoken.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert "yellow" in words
    with torch.no_grad():  # an image of zeros has an image term of zero
        (term,) = spoken.cell().encode(torch.zeros(1, spoken.facts["feature_size"]))
    assert not term.any()
    seeing = train.run(
        replace(config, start=str(spoken.folder), epochs=1), tmp_path / "pairs", cache=cache
    )
    assert (seeing.folder / "tokenizer.json").read_bytes() == (
        spoken.folder / "tokenizer.json"
    ).read_bytes()
    assert seeing.facts["captions"] == {"train": 24, "dev": 8}


def test_several_data_sets_share_one_vocabulary(
    config: TrainConfig, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    photo = next((corpus / "images").iterdir())
    (tmp_path / "mine").mkdir()
    line = {"file": str(photo), "captions": ["A violet photo ."] * 4}
    (tmp_path / "mine" / "captions.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    two = (*config.datasets, ("folder/all", str(tmp_path / "mine")))
    run = train.run(replace(config, datasets=two, epochs=1), tmp_path / "run", cache=cache)
    assert run.facts["photos"] == {"train": SPLITS["train"] + 1, "dev": SPLITS["dev"]}
    with pytest.raises(UsageError, match="no photo is held out"):
        train.run(replace(config, datasets=two[1:]), tmp_path / "none", cache=cache)
    assert '"violet"' in (run.folder / "tokenizer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("cell", ["m-rnn", "gru"])
def test_a_bundle_can_be_trained_further(
    cell: str, config: TrainConfig, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    source = train.run(replace(config, cell=cell, epochs=2), tmp_path / "run", cache=cache)
    export.run(source.folder, tmp_path / "bundle", name="squares")
    start = open_start(str(tmp_path / "bundle"))
    net = source.cell()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    start.fill(net)
    tokens = pack([[1, 4, 5, 6], [1, 7, 8]])
    features = torch.rand(2, source.facts["feature_size"])
    with torch.no_grad():
        theirs, ours = source.cell()(tokens, features), net(tokens, features)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)  # weights were rounded to float16
    further = replace(config, cell=cell, start=str(tmp_path / "bundle"), epochs=1)
    again = train.run(further, tmp_path / "further", cache=cache)
    assert again.facts["vocabulary_size"] == source.facts["vocabulary_size"]
    # It starts where the bundle ended, so one short epoch cannot be far from there.
    assert again.facts["dev_perplexity"] < 1.5 * source.facts["dev_perplexity"]


def test_an_int8_bundle_can_be_trained_further(
    config: TrainConfig, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    large = {"embedding": 8, "word": 16, "recurrent": 64, "multimodal": 256, "dropout": 0.0}
    source = train.run(replace(config, cell="gru", sizes=large), tmp_path / "run", cache=cache)
    export.run(source.folder, tmp_path / "bundle", name="squares")
    examples = datasets.read("flickr8k", corpus, "dev")
    quantize.run(tmp_path / "bundle", tmp_path / "int8", examples, agreement=0)
    cell = onnx.load(tmp_path / "int8" / "cell.onnx", load_external_data=False)
    names = {tensor.name for tensor in cell.graph.initializer}
    assert {"vocabulary.weights", "table0.whole"} <= names
    net = source.cell()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    open_start(str(tmp_path / "int8")).fill(net)
    tokens = pack([[1, 4, 5, 6], [1, 7, 8]])
    features = torch.rand(2, source.facts["feature_size"])
    with torch.no_grad():
        theirs, ours = (one(tokens, features).softmax(dim=1) for one in (source.cell(), net))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)


def test_a_bundle_of_another_kind_cannot_be_trained_further(
    tiny_bundle: Path, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    source = train.run(replace(config, cell="nic", epochs=1), tmp_path / "run", cache=cache)
    export.run(source.folder, tmp_path / "bundle", name="squares")
    further = replace(config, cell="nic", start=str(tmp_path / "bundle"))
    with pytest.raises(UsageError, match="neither m-rnn nor gru"):
        train.run(further, tmp_path / "further", cache=cache)
    with pytest.raises(UsageError, match="does not say how it was trained"):
        open_start(str(tiny_bundle))
    assert not (tmp_path / "further").exists()


def test_a_bundle_sees_photos_as_its_training_did_and_a_start_too(
    config: TrainConfig, trained: Run, cache: Path, tmp_path: Path
) -> None:
    assert build_backbone(trained.config).preprocess.resize == "squash"
    cropped = replace(config, resize="crop", epochs=1)
    source = train.run(cropped, tmp_path / "run", cache=cache)
    bundle, _ = export.run(source.folder, tmp_path / "bundle", name="squares")
    assert bundle.preprocess.resize == "crop"
    for start in (source.folder, bundle.folder):
        assert open_start(str(start)).config["resize"] == "crop"
    with pytest.raises(UsageError, match="unknown resize rule 'stretch'"):
        train.run(replace(config, resize="stretch"), tmp_path / "other", cache=cache)
    assert not (tmp_path / "other").exists()


def test_a_folder_in_use_is_refused(trained: Run, config: TrainConfig, cache: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        train.run(config, trained.folder, cache=cache)
    with pytest.raises(UsageError, match="another configuration"):
        train.run(replace(config, seed=2), trained.folder, cache=cache, resume=True)


def test_nothing_to_resume(config: TrainConfig, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        train.run(config, tmp_path / "run", cache=cache, resume=True)


def test_less_than_a_batch_is_refused(config: TrainConfig, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="24 training captions do not fill one batch of 25"):
        train.run(replace(config, batch_size=25), tmp_path / "run", cache=cache)
    assert not (tmp_path / "run").exists()


def test_less_than_a_batch_in_a_process_is_refused(
    config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    for hardware in ({"devices": 3}, {"devices": 1, "num_nodes": 3}):
        with pytest.raises(UsageError, match="fill one batch of 9 in each of 3 processes") as said:
            train.run(replace(config, batch_size=9), tmp_path / "run", cache=cache, **hardware)
        assert said.value.hint == "--batch-size 1, say"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, not nan"),
        ({"label_smoothing": 1.5}, "label_smoothing must be 0 to 1"),
        ({"reward": 1.0, "samples": 1}, "one for a photo is not enough"),
        ({"reward": 1.0, "sentences": "s.txt"}, "sentences without photos have no reward"),
        ({"finetune": 1, "sentences": "s.txt"}, "sentences without photos train no CNN"),
        ({"views": ("plain", "crop")}, "unknown view 'crop'"),
        ({"views": ()}, "no view"),
    ],
)
def test_a_configuration_that_no_training_can_follow(change: dict[str, object], message) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(datasets=(), **change)


@pytest.mark.parametrize(
    ("what", "change"),
    [("cell", {"cell": "rnn-base"}), ("sizes", {"sizes": {}})],
)
def test_a_start_that_does_not_fit_is_refused(
    what: str,
    change: dict[str, object],
    trained: Run,
    config: TrainConfig,
    cache: Path,
    tmp_path: Path,
) -> None:
    other = replace(config, start=str(trained.folder), **change)
    with pytest.raises(UsageError, match=f"its {what} differ"):
        train.run(other, tmp_path / "run", cache=cache)
    assert not (tmp_path / "run").exists()


def test_an_unknown_size_is_named(config: TrainConfig, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="depth"):
        train.run(replace(config, sizes={"depth": 3}), tmp_path / "run", cache=cache)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"backbone": "efficientnet"}, "unknown backbone"), ({"cell": "m-rn"}, "unknown cell 'm-rn'")],
)
def test_unknown_names_are_told_before_anything_else(
    change: dict[str, str], message: str, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    nowhere = replace(config, datasets=(("flickr8k", "nowhere"),), batch_size=10**6, **change)
    with pytest.raises(UsageError, match=message):
        train.run(nowhere, tmp_path / "run", cache=cache)


PARTS = """
import torch
from torch import nn

from mrnn_exporters.cells import m_rnn
from mrnn_runtime import Component, Preprocess, hookimpl


def fail(*args):
    raise ValueError("out of luck")


def unfit(config):
    fail()


def unable(config):
    net = m_rnn(config)
    net.forward = fail
    return net


def stepless(config):
    net = m_rnn(config)
    net.step = fail
    return net


class Blind(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, token, image_term, *state):
        return self.step(token, 0 * image_term, *state)


def blind(config):
    net = m_rnn(config)
    step = net.step
    net.step = lambda: Blind(step())
    return net


class Failing(nn.Module):
    def forward(self, image):
        fail()


class dark:
    feature_size, preprocess, weights_id = 8, Preprocess(8, 8, "squash", "bilinear"), "dark"

    def __init__(self, weights):
        self.module = Failing().eval()


@hookimpl
def mrnn_backbones():
    return [Component("dark", "parts:dark", "fails")]


@hookimpl
def mrnn_cells():
    return [Component(n, f"parts:{n}", "fails") for n in ("unfit", "unable", "stepless", "blind")]
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin whose backbone and cells fail, each in its way."""
    site = tmp_path / "site"
    info = site / "parts-1.dist-info"
    info.mkdir(parents=True)
    (site / "parts.py").write_text(PARTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mrnn]\nparts = parts\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    # The manager of this process is made anew where this variable changes.
    monkeypatch.setenv("MRNN_DISABLE_PLUGINS", str(tmp_path))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("change", "who"),
    [
        ({"cell": "unfit"}, "cell 'unfit'"),
        ({"cell": "unable"}, "cell 'unable'"),
        ({"backbone": "dark"}, "backbone 'dark'"),
    ],
)
def test_a_part_that_fails_in_training_is_named(
    change: dict[str, str], who: str, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match=f"{who} failed: ValueError: out of luck"):
        train.run(replace(config, epochs=1, **change), tmp_path / "run", cache=cache)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("stepless", r"cell 'stepless' failed: ValueError: out of luck"),
        ("blind", r"cell 'blind': step\(\) differs from forward\(\)"),
    ],
)
def test_a_cell_that_fails_at_export_is_named_and_leaves_nothing(
    cell: str, message: str, trained: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    facts = json.loads((folder / "run.json").read_text())
    facts["config"]["cell"] = cell
    (folder / "run.json").write_text(json.dumps(facts))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(PluginError, match=message):
        export.run(folder, tmp_path / "b", name="b")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_run_and_what_it_started_from_have_a_mean(
    trained: Run, exported: Path, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    further = replace(config, start=str(trained.folder), epochs=1)
    run = train.run(further, tmp_path / "further", cache=cache)
    mean = averaging.average(run.folder, [str(trained.folder)], tmp_path / "mean")
    ends = [one.cell().state_dict() for one in (trained, run)]
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for name, weights in mean.cell().state_dict().items():
        torch.testing.assert_close(weights, (ends[0][name] + ends[1][name]) / 2)
    export.run(mean.folder, tmp_path / "bundle", name="mean")
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"the mean of its weights and of those of {trained.folder.name}" in card
    assert open_start(str(tmp_path / "bundle")).weights_id == trained.facts["weights_id"]
    # A bundle has rounded weights, in other layers that are the same function.
    app = typer.Typer()
    plugin.mrnn_commands(app)
    words = ["average", run.folder, trained.folder, exported, "-o", tmp_path / "three"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert Run.open(tmp_path / "three").facts["averaged"] == [trained.folder.name, exported.name]


def test_nets_without_a_mean_are_refused(
    trained: Run, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    other = train.run(replace(config, cell="gru", epochs=1), tmp_path / "gru", cache=cache)
    rarer = train.run(replace(config, min_count=15, epochs=1), tmp_path / "rarer", cache=cache)
    for run, words in ((other, "its cell differ"), (rarer, "its words differ")):
        with pytest.raises(UsageError, match=words):
            averaging.average(trained.folder, [str(run.folder)], tmp_path / "mean")
    with pytest.raises(UsageError, match="no finished run"):
        averaging.average(tmp_path, [str(trained.folder)], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    with pytest.raises(UsageError, match="exists already"):
        averaging.average(trained.folder, [str(trained.folder)], other.folder)
