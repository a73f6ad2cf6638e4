"""Run the fuzzers in turn with new seeds, until the time is up or one finds something.

    python tests/robustness/attack.py --minutes 60        (make attack MINUTES=60)

It ends with exit code 1 after the first round in which something went wrong; what that was, and the
command that does it again, is printed.
"""

import argparse
import secrets
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# A round of each takes about a minute on two cores.
ROUND = (
    ("fuzz.py", "--images", "300"),
    ("fuzz.py", "--bundles", "300"),
    ("protobuf.py", "--cases", "10000"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the first round; by default a new one")
    args = parser.parse_args()
    seed = secrets.randbelow(10**9) if args.seed is None else args.seed
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        for script, *options in ROUND:
            command = [sys.executable, str(HERE / script), *options, "--seed", str(seed)]
            code = subprocess.run(command, check=False).returncode
            if code:
                print(f"exit code {code}: {' '.join(command)}")
                return 1
            if time.monotonic() > end:
                break
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
