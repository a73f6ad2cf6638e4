"""Kill a run of ``mrnn caption`` again and again, resume it each time, and look at what is there.

    python tests/robustness/kill_resume.py FOLDER [--kills 20] [--seed 0] [--format F] [--model M]

Each time the process gets SIGKILL, at a random moment of its work. In the end every photo must be
there once, in whole lines, with the caption that an unbroken run gives it.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory


def run(folder: Path, output: Path, *, model: str, form: str, kill_after: float | None) -> int:
    """Run ``mrnn caption`` with --resume; return its exit code, negative where it was killed.

    ``kill_after`` counts in seconds from the first record of this run.
    """
    command = [sys.executable, "-m", "mrnn_runtime", "caption", str(folder), "--model", model]
    command += ["--output", str(output), "--format", form, "--resume", "--provider", "cpu"]
    before = output.stat().st_size if output.exists() else 0
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    if kill_after is not None:
        while child.poll() is None and (not output.exists() or output.stat().st_size <= before):
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.001)
        with suppress(subprocess.TimeoutExpired):
            child.wait(kill_after)
        child.kill()
    return child.wait()


def check(folder: Path, *, model: str, kills: int, seed: int, form: str) -> str:
    """Kill and resume; return what is wrong, or nothing."""
    numbers = random.Random(seed)
    with TemporaryDirectory() as scratch:
        whole, output = Path(scratch, "whole"), Path(scratch, "output")
        began = time.monotonic()
        code = run(folder, whole, model=model, form=form, kill_after=None)
        if code:
            return f"the unbroken run exits with {code}"
        seconds = (time.monotonic() - began) / (kills + 1)
        killed = 0
        for _ in range(kills):
            wait = numbers.uniform(0, seconds)
            killed += run(folder, output, model=model, form=form, kill_after=wait) < 0
        code = run(folder, output, model=model, form=form, kill_after=None)
        expected, resumed = (sorted(p.read_text().splitlines()) for p in (whole, output))
        print(f"{killed} of {kills} runs were killed, {len(resumed)} lines, last exit code {code}")
        if code:
            return f"the last run exits with {code}"
        if resumed != expected:
            missing, more = set(expected) - set(resumed), set(resumed) - set(expected)
            return f"{len(missing)} records are missing, {len(more)} are others or there twice"
        return "" if killed else "no run lived long enough to be killed"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="flickr8k")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", default="jsonl")
    given = parser.parse_args()
    sys.exit(
        check(
            given.folder,
            model=given.model,
            kills=given.kills,
            seed=given.seed,
            form=given.format,
        )
        or 0
    )
