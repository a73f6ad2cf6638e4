"""A small run of fuzz.py; the large one is a command that the file itself names."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.skipif(sys.platform != "linux", reason="who opens what is asked of Linux")
@pytest.mark.parametrize(("kind", "count"), [("images", 60), ("bundles", 60)])
def test_nothing_hostile_does_harm(kind, count):
    command = [sys.executable, str(FUZZ), f"--{kind}", str(count), "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"{kind}: " in done.stdout
    assert "refused" in done.stdout
    assert "taken" in done.stdout
