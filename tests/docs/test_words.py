"""Words and names that the project does not use; CONTRIBUTING says what stands in their place."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Written so that this file holds none of them.
RETIRED = re.compile(r"\b(me[n]d(s|ed)?|lou[d](er|est)?|hea[r](s|d)?|outside of python.s loc[k])\b")
NAMES = {"found", "nobody", "nothing"}


def files(*patterns):
    git = ["git", "ls-files", "-z", "--", *patterns]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout of git")
    return [ROOT / name for name in listed.decode().split("\0") if name]


def test_no_retired_word_is_used():
    lines = [
        f"{path.name}: {line}"
        for path in files("*.py", "*.md", "*.toml", "*.yml", "*.js", "*.css", "*.tmpl", "Makefile")
        if path.exists()
        for line in path.read_text(encoding="utf-8").splitlines()
        if RETIRED.search(line.lower())
    ]
    assert not lines


def test_a_variable_is_named_for_what_it_holds():
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files("*.py")
        if path.exists()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id in NAMES)
        or (isinstance(node, ast.arg) and node.arg in NAMES)
        or (isinstance(node, ast.Attribute) and node.attr in NAMES)
    ]
    assert not named
