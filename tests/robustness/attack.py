"""Run the fuzzers in turn with new seeds, until the time is up or one finds something.

    python tests/robustness/attack.py --minutes 60        (make attack MINUTES=60)

It ends with exit code 1 after the first round in which something went wrong; what that was, and the
command that does it again, is printed. The last lines add up what became of the cases of each kind.
"""

import argparse
import re
import secrets
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent
# A round of each takes one to two minutes on two cores.
ROUND = (
    ("fuzz.py", "--images", "300"),
    ("fuzz.py", "--metadata", "300"),
    ("fuzz.py", "--bundles", "300"),
    ("fuzz.py", "--operators", "1500"),
    ("protobuf.py", "--cases", "10000"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the first round; by default a new one")
    args = parser.parse_args()
    seed = secrets.randbelow(10**9) if args.seed is None else args.seed
    first = seed
    end = time.monotonic() + 60 * args.minutes
    became = defaultdict(Counter)
    while time.monotonic() < end:
        for script, *options in ROUND:
            command = [sys.executable, str(HERE / script), *options, "--seed", str(seed)]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
            print(done.stdout, end="", flush=True)
            for kind, counts in re.findall(r"^(\w+): (\d.*?);", done.stdout, re.MULTILINE):
                for count, what in re.findall(r"(\d+) ([^,]+)", counts):
                    became[kind][what] += int(count)
            if code := done.returncode:
                print(f"exit code {code}: {' '.join(command)}")
                return 1
            if time.monotonic() > end:
                break
        seed += 1
    print(f"{args.minutes:g} minutes, seeds {first} to {seed - 1}")
    for kind, counts in became.items():
        listed = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        print(f"{sum(counts.values())} {kind}: {listed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
