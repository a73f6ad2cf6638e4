"""Captions through Ray against ``mrnn caption``, on the same photos and the same cores.

    python benchmarks/cluster.py FOLDER [--photos 1500] [--model flickr8k] [--json FILE]
    python benchmarks/cluster.py --overhead [--json FILE]

Rates are those after start-up: of ``mrnn caption`` what it says itself, of a cluster the photos
after the first parts, by the times of the files. ``--overhead`` has parts of one photo and a net
that takes no time, so that what is left is what a part costs. How far that goes, docs/costs.py
computes from the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mrnn_runtime.testing import tiny_bundle

PROGRAM = [sys.executable, "-m", "mrnn_runtime"]


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--model", default="flickr8k")
    parser.add_argument("--part", type=int, default=64)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    known = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    with TemporaryDirectory() as scratch:
        if given.overhead:
            known |= overhead(Path(scratch))
        else:
            links = Path(scratch, "photos")
            links.mkdir()
            for photo in islice(sorted(given.folder.glob("*.jpg")), given.photos):
                with suppress(OSError):
                    os.link(photo, links / photo.name)
                    continue
                (links / photo.name).symlink_to(photo)
            known |= compare(links, given.model, given.part)
    print(json.dumps(known, indent=1))
    if given.json:
        given.json.write_text(json.dumps(known, indent=1) + "\n")


def compare(photos: Path, model: str, part: int) -> dict[str, object]:
    """Caption with both, the cluster with one and with two workers."""
    count = len(list(photos.iterdir()))
    command = [*PROGRAM, "caption", str(photos), "--model", model, "--provider", "cpu"]
    command += ["--output", str(photos.parent / "alone.jsonl")]
    said = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
    alone = float(re.findall(r"([\d.]+) images/s", said)[-1])
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    facts: dict[str, object] = {"model": model, "machine": machine, "photos": count, "part": part}
    facts["alone"] = alone
    print(facts, flush=True)
    for actors in (2, 1):
        run = cluster(photos, model, part, actors, photos.parent / f"out{actors}")
        facts[f"actors_{actors}"] = run | {"share": round(run["rate"] / alone, 3)}
        print(facts, flush=True)
    lines = [
        sorted(line for file in files for line in file.read_text().splitlines())
        for files in ([photos.parent / "alone.jsonl"], (photos.parent / "out2").glob("*.jsonl"))
    ]
    facts["equal"] = lines[0] == lines[1]
    facts["photo_kb"] = round(sum(p.stat().st_size for p in photos.iterdir()) / count / 1000, 1)
    written = sum(p.stat().st_size for p in (photos.parent / "out2").glob("*.jsonl"))
    facts["record_bytes"] = round(written / count)
    return facts


def cluster(photos: Path, model: str, part: int, actors: int, output: Path) -> dict[str, float]:
    """Caption on a cluster of this machine; return rate, start-up and memory."""
    command = [*PROGRAM, "ray", "caption", str(photos), "-o", str(output), "--model", model]
    command += ["--format", "jsonl", "--part", str(part), "--concurrency", str(actors)]
    began = time.time()
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(child, peak))
    watch.start()
    code = child.wait()
    watch.join()
    seconds = time.time() - began
    if code:
        raise SystemExit(f"mrnn ray caption exits with {code}")
    done = sorted(
        (file.stat().st_mtime, file.read_text().count("\n")) for file in output.glob("*.jsonl")
    )
    # Each worker's first part holds its start; the last ones run while others are idle.
    first, last = done[actors - 1][0], done[-actors][0]
    counted = sum(count for at, count in done if first < at <= last)
    rate = counted / (last - first)
    return {
        "rate": round(rate, 2),
        "seconds": round(seconds, 1),
        "start_up": round(seconds - sum(count for _, count in done) / rate, 1),
        "actor_mb": round(peak[0]),
    }


def _watch(child: subprocess.Popen[bytes], peak: list[float]) -> None:
    """Keep the most memory that an actor had, in MB."""
    while child.poll() is None:
        for status in Path("/proc").glob("[0-9]*/status"):
            with suppress(OSError):
                if b"Worker" in (status.parent / "cmdline").read_bytes()[:60]:
                    line = re.search(r"VmHWM:\s+(\d+)", status.read_text())
                    peak[0] = max(peak[0], int(line[1]) / 1000 if line else 0)
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.5)


def overhead(scratch: Path) -> dict[str, float]:
    """Return what a part costs beside its photos, and a photo of the tiny net, in ms."""
    photos, model = scratch / "photos", tiny_bundle(scratch / "bundle")
    photos.mkdir()
    for i in range(400):
        Image.fromarray(np.full((16, 16, 3), i % 256, np.uint8)).save(photos / f"{i:03}.png")
    one = cluster(photos, str(model), 1, 1, scratch / "one")["rate"]
    two = cluster(photos, str(model), 1, 2, scratch / "two")["rate"]
    return {"part_ms": round(1000 / one, 1), "parts_per_second": round(two, 1)}


if __name__ == "__main__":
    main()
