"""What a figure is kept with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mrnn_exporters

GIT = shutil.which("git")


@pytest.mark.skipif(GIT is None, reason="git is not installed")
def test_the_commit_is_that_of_the_package_and_not_of_a_repository_around_it(tmp_path):
    package = tmp_path / "env" / "site-packages" / "mrnn_exporters"
    shutil.copytree(Path(mrnn_exporters.__file__).parent, package)

    def git(*args):
        author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        done = subprocess.run(
            [GIT, *author, *args], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit():
        done = subprocess.run(
            [sys.executable, "-c", "from mrnn_exporters import provenance as p; print(p.commit())"],
            env={**os.environ, "PYTHONPATH": str(package.parent)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "around it")
    assert commit() == "None"
    git("add", "--force", ".")
    git("commit", "--quiet", "--message", "with it")
    assert commit() == git("rev-parse", "HEAD")
