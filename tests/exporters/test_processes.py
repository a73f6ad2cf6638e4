"""Training in two processes: gloo on the CPU, as it is NCCL on GPUs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

# The rounding of sums whose terms come in another order, over all steps.
TOLERANCE = 2e-5
# Dies in the middle of the second epoch, as by kill -9, where told to.
SCRIPT = """
import os, sys
from mrnn_exporters import train
from mrnn_runtime.cli import main

before = train.Trainee.training_step


def training_step(self, batch, batch_idx):
    if "DIE" in os.environ and self.current_epoch == 1 and self.global_rank == 1:
        os._exit(9)
    with open(os.environ["SEEN"] + str(self.global_rank), "a") as file:
        print(self.current_epoch, *sorted(batch.photos), file=file)
    return before(self, batch, batch_idx)


train.Trainee.training_step = training_step
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """16 photos and 32 captions of different lengths; four photos are held out."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    records = []
    for i in range(20):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        captions = ["a red square " * (1 + i % 3), "the square is blue and " + "small " * (i % 4)]
        split = "dev" if i >= 16 else "train"
        records.append({"file": f"{i}.png", "captions": captions, "split": split})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    return root


@pytest.fixture(scope="module")
def mrnn_train(corpus, tmp_path_factory):
    """``mrnn_train(name, options, DIE=...) -> (folder, exit code)``."""
    scratch = tmp_path_factory.mktemp("runs")
    (scratch / "script.py").write_text(SCRIPT)

    def run(name, *options, **environment):
        command = [sys.executable, str(scratch / "script.py"), "train"]
        command += ["--dataset", f"folder:{corpus}", "-o", str(scratch / name)]
        command += ["--backbone", "efficientnet-lite0", "--weights", "random", "--seed", "3"]
        command += ["--cache", str(scratch / "cache"), "--min-count", "1", "--epochs", "3"]
        command += ["--average", "0", "--learning-rate", "0.01", "--patience", "9"]
        for size in ("embedding=8", "word=16", "recurrent=16", "multimodal=24", "dropout=0"):
            command += ["--size", size]
        seen = {"SEEN": str(scratch / f"{name}-seen-"), "MASTER_ADDR": "127.0.0.1"}
        child = subprocess.Popen(
            command + list(options),
            env=os.environ | seen | environment | {"CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            said = child.communicate(timeout=300)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # what it started, if that is still there
        return scratch / name, child.returncode, said

    return run


@pytest.fixture(scope="module")
def together(mrnn_train):
    folder, code, said = mrnn_train("together", "--devices", "2", "--batch-size", "4")
    assert code == 0, said
    return folder


def weights(folder):
    return load_file(folder / "weights.safetensors")


def facts(folder):
    return json.loads((folder / "run.json").read_text())


def far(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_are_one_with_the_summed_batch(mrnn_train, together):
    folder, code, said = mrnn_train("alone", "--devices", "1", "--batch-size", "8")
    assert code == 0, said
    assert far(weights(folder), weights(together)) < TOLERANCE
    curves = [facts(one)["facts"]["curve"] for one in (folder, together)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_processes_see_different_batches(together):
    seen = [Path(f"{together}-seen-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 3 * 32 // 8
    first = [sorted(line.split()[1:] for line in lines[:4]) for lines in seen]
    assert first[0] != first[1]
    photos = [photo for lines in seen for line in lines[:4] for photo in line.split()[1:]]
    assert sorted(map(int, photos)) == sorted([*range(16), *range(16)])


def test_a_process_that_is_killed_is_resumed(mrnn_train, together):
    _, code, _ = mrnn_train("killed", "--devices", "2", "--batch-size", "4", DIE="1")
    assert code != 0
    folder, code, said = mrnn_train("killed", "--devices", "2", "--batch-size", "4", "--resume")
    assert code == 0, said
    again, whole = weights(folder), weights(together)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_steps_that_are_added_up_are_nearly_one(mrnn_train, together):
    """Nearly: each step is the mean over its own words."""
    folder, code, said = mrnn_train("added", "--batch-size", "4", "--accumulate", "2")
    assert code == 0, said
    assert facts(folder)["config"]["accumulate"] == 2
    assert far(weights(folder), weights(together)) < 0.1


def test_half_precision_trains_and_an_unknown_one_is_refused(mrnn_train):
    folder, code, said = mrnn_train("half", "--batch-size", "8", "--precision", "bf16-mixed")
    assert code == 0, said
    assert all(torch.isfinite(weight).all() for weight in weights(folder).values())
    _, code, said = mrnn_train("none", "--batch-size", "8", "--precision", "8")
    assert (code, "32-true" in said) == (2, True)
