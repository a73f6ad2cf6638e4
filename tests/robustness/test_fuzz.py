"""Small runs of the fuzzers; large ones are commands that the files name, and make attack."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
FUZZ = HERE / "fuzz.py"


@pytest.mark.skipif(sys.platform != "linux", reason="who opens what is asked of Linux")
@pytest.mark.parametrize(
    ("kind", "count"), [("images", 60), ("metadata", 60), ("bundles", 60), ("operators", 300)]
)
def test_nothing_hostile_does_harm(kind, count):
    command = [sys.executable, str(FUZZ), f"--{kind}", str(count), "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"{kind}: " in done.stdout
    assert "refused" in done.stdout
    assert "taken" in done.stdout


def test_what_the_strict_reader_takes_means_the_same_to_protobuf():
    command = [sys.executable, str(HERE / "protobuf.py"), "--cases", "500", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for word in ("refused by the reader", "refused by the checks", "taken"):
        assert word in done.stdout
