"""Kill workers, nodes, the program and the head of a cluster at random moments of a run.

    python tests/robustness/ray_kills.py FOLDER [--kills 10] [--part 8] [--seed 0] [--model M]

The cluster is a local one of a head and two nodes. In the end every photo must be there once, with
the record that ``mrnn caption`` writes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ray.cluster_utils import Cluster

os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # busy machines
WHAT = ("worker", "node", "program", "head")
MOST_SECONDS = 240  # between two parts; then something hangs
STORE = 80 * 2**20  # of objects: what goes through Ray is small


class Nodes:
    """A head, which runs no work, and two nodes of one core."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE,
                "include_dashboard": False,
            },
        )
        self.nodes = [self.add(), self.add()]

    def add(self):
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def stop(self) -> None:
        with suppress(Exception):
            self.cluster.shutdown()

    def replace(self, numbers: random.Random) -> None:
        """Kill a node without a word, and bring another."""
        place = numbers.randrange(len(self.nodes))
        self.cluster.remove_node(self.nodes[place], allow_graceful=False)
        self.nodes[place] = self.add()

    def workers(self) -> list[int]:
        """Return the processes of the actors, children of our nodes."""
        raylets = {process.pid for node in self.nodes for _, process in node.live_processes()}
        numbers = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError, ValueError):
                is_actor = b"MapWorker" in (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if is_actor and parent in raylets:
                    numbers.append(int(folder.name))
        return sorted(numbers)


def run(
    folder: Path, output: Path, model: str, address: str, log: Path, part: int
) -> subprocess.Popen:
    command = [sys.executable, "-m", "mrnn_runtime", "ray", "caption", str(folder)]
    command += ["-o", str(output), "--model", model, "--address", address, "--resume"]
    command += ["--format", "jsonl", "--part", str(part), "--concurrency", "2"]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def parts_in(output: Path) -> int:
    return len(list(output.glob("*.jsonl")))


def wait_for_a_part(child: subprocess.Popen, output: Path, before: int) -> bool:
    """Wait until there is a part more; return False where the run has ended instead."""
    deadline = time.monotonic() + MOST_SECONDS
    while parts_in(output) <= before:
        if child.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"no part in {MOST_SECONDS} seconds")
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.01)
    return True


def check(folder: Path, *, model: str, kills: list[str], seed: int, part: int) -> str:
    """Kill and resume; return what is wrong, or nothing."""
    numbers = random.Random(seed)
    killed: Counter[str] = Counter()
    with TemporaryDirectory() as scratch:
        whole, output, log = (Path(scratch, name) for name in ("whole.jsonl", "output", "log"))
        alone = [sys.executable, "-m", "mrnn_runtime", "caption", str(folder), "--model", model]
        alone += ["--provider", "cpu", "--output", str(whole)]
        code = subprocess.run(alone, stderr=subprocess.DEVNULL).returncode
        nodes = Nodes()
        child = run(folder, output, model, nodes.cluster.address, log, part)
        try:
            for what in kills:
                if not wait_for_a_part(child, output, parts_in(output)):
                    break
                with suppress(subprocess.TimeoutExpired):
                    child.wait(numbers.uniform(0, 0.5))
                if child.poll() is not None:
                    break
                if what == "worker":
                    workers = nodes.workers()
                    if not workers:
                        continue
                    with suppress(ProcessLookupError):
                        os.kill(numbers.choice(workers), signal.SIGKILL)
                elif what == "node":
                    nodes.replace(numbers)
                else:
                    child.kill()
                    child.wait()
                    if what == "head":
                        nodes.stop()
                        nodes.start()
                    child = run(folder, output, model, nodes.cluster.address, log, part)
                killed[what] += 1
            last = child.wait(MOST_SECONDS)
            if last not in (0, 1):  # one that was hit may give up; another takes it from there
                child = run(folder, output, model, nodes.cluster.address, log, part)
                last = child.wait(MOST_SECONDS)
        finally:
            child.kill()
            child.wait()
            nodes.stop()
        said = log.read_text()[-2000:]
        expected = sorted(whole.read_text().splitlines())
        paths = sorted(
            line for file in output.glob("*.jsonl") for line in file.read_text().splitlines()
        )
        print(f"killed: {dict(killed)}; {len(paths)} records in {parts_in(output)} parts")
        if last not in (0, code):
            return f"the last run exits with {last}:\n{said}"
        if paths != expected:
            missing, more = set(expected) - set(paths), len(paths) - len(set(expected) & set(paths))
            return f"{len(missing)} records are missing, {more} are others or twice:\n{said}"
        return "" if sum(killed.values()) == len(kills) else f"killed only {dict(killed)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="flickr8k")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, default=8)
    given = parser.parse_args()
    order = [WHAT[i % len(WHAT)] for i in range(given.kills)]
    random.Random(given.seed).shuffle(order)
    sys.exit(
        check(given.folder, model=given.model, kills=order, seed=given.seed, part=given.part) or 0
    )
