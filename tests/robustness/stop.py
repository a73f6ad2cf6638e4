"""Send signals to runs of ``mrnn caption`` at random moments, and say how they end.

    python tests/robustness/stop.py FOLDER [--runs 100] [--seed 1] [--model everyday]

Each gets one to three of SIGINT and SIGTERM. It must end with code 130, within a second, without a
traceback, and leave whole records.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

READY = """
from mrnn_runtime import cli

def run(*args, after=cli._run, **options):
    print("ready", flush=True)
    after(*args, **options)

cli._run = run
cli.main()
"""


def stopped(args, output, numbers):
    """Stop one run; return how it ended, and after how many seconds."""
    command = [sys.executable, "-c", READY, "caption", *args, "--output", str(output)]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with child:
        child.stdout.readline()
        time.sleep(numbers.choice((0, numbers.uniform(0, 0.1), numbers.uniform(0, 1))))
        began = time.monotonic()
        for _ in range(numbers.randint(1, 3)):
            child.send_signal(numbers.choice((signal.SIGINT, signal.SIGTERM)))
            time.sleep(numbers.choice((0, 0.001, 0.05)))
        errors = child.stderr.read()
        code = child.wait(20)
    seconds = time.monotonic() - began
    text = output.read_text() if output.exists() else ""
    if text and not (text.endswith("\n") and all(map(json.loads, text.splitlines()))):
        return "broken records", seconds
    return "traceback" if b"Traceback" in errors else f"code {code}", seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="everyday")
    args = parser.parse_args()
    numbers, ends, longest = random.Random(args.seed), Counter(), 0.0
    command = [*[args.folder] * 200, "--model", args.model, "--provider", "cpu", "--workers", "4"]
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.runs):
            end, seconds = stopped(command, Path(scratch, f"{number}.jsonl"), numbers)
            ends[end] += 1
            longest = max(longest, seconds)
    print(f"{dict(ends)}, the slowest after {longest:.2f} s")
    return int(set(ends) != {"code 130"} or longest > 1)


if __name__ == "__main__":
    sys.exit(main())
