"""``mrnn plugins new``: what it writes is in order, fits its contract, and installs and runs."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from mrnn_runtime.cli import main
from mrnn_runtime.testing import tiny_bundle

pytest.importorskip("mrnn_devtools", reason="mrnn-devtools is not installed")
ROOT = Path(__file__).parents[2]
KINDS = ("backbone", "cell", "command", "decoder", "model", "reranker")
LONG = "a-name-of-two-and-thirty-letters"


def mrnn(*args):
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    return caught.value.code or 0


def run(module, *args, **options):
    """Run a module of this environment; return its stdout."""
    return python("-m", module, *args, **options)


def python(*args, **options):
    child = subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, **options
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


def needs_torch(kind):
    if kind in ("backbone", "cell") and not find_spec("mrnn_exporters"):
        pytest.skip("mrnn-exporters is not installed")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with a package of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        assert mrnn("plugins", "new", f"zig-{kind}", "--kind", kind, "--output", folder / kind) == 0
    return folder


def test_it_says_where_the_package_is_and_what_is_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert mrnn("plugins", "new", "mrnn-zig", "--kind", "decoder") == 0
    out, err = capsys.readouterr()
    assert out == "mrnn-zig\n"
    assert "cd mrnn-zig" in err
    files = {path.relative_to("mrnn-zig").as_posix() for path in Path("mrnn-zig").rglob("*.*")}
    assert files == {
        "README.md",
        "mrnn_zig/__init__.py",
        "mrnn_zig/py.typed",
        "mrnn_zig/search.py",
        "pyproject.toml",
        "tests/test_mrnn_zig.py",
    }
    assert Path("mrnn-zig/LICENSE").is_file()


@pytest.mark.parametrize(
    ("name", "kind", "complaint"),
    [
        ("Zig", "decoder", "no name for a plugin"),
        ("zig_zag", "decoder", "no name for a plugin"),
        ("zig--zag", "decoder", "no name for a plugin"),
        ("../zig", "decoder", "no name for a plugin"),
        (f"{LONG}s", "decoder", "no name for a plugin"),
        ("beam", "decoder", "a decoder 'beam' is installed already"),
        ("runtime", "decoder", "a package 'mrnn_runtime' is installed already"),
        ("zig", "encoder", "'encoder' is not one of"),
    ],
)
def test_names_that_cannot_be(tmp_path, monkeypatch, capsys, name, kind, complaint):
    monkeypatch.chdir(tmp_path)
    assert mrnn("plugins", "new", name, "--kind", kind) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious").write_text("content")
    assert mrnn("plugins", "new", "zig", "--kind", "decoder", "--output", tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["z", LONG])
def test_ruff_finds_nothing_whatever_the_name(tmp_path, name):
    for kind in KINDS:
        assert mrnn("plugins", "new", name, "--kind", kind, "--output", tmp_path / kind) == 0
    run("ruff", "check", "--no-cache", ".", cwd=tmp_path)
    run("ruff", "format", "--no-cache", "--check", ".", cwd=tmp_path)


def test_they_are_linted_by_our_own_rules(packages):
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    theirs = tomllib.loads((packages / "decoder" / "pyproject.toml").read_text())["tool"]
    assert theirs["ruff"]["line-length"] == ours["ruff"]["line-length"]
    assert theirs["ruff"]["lint"]["select"] == ours["ruff"]["lint"]["select"]
    assert theirs["mypy"]["strict"] is ours["mypy"]["strict"] is True


def test_mypy_finds_nothing(packages):
    needs_torch("cell")
    files = [*packages.glob("*/mrnn_*"), *packages.glob("*/tests/*.py")]
    # With our settings, and the cache that a check of the whole project has filled: it holds torch.
    run("mypy", "--config-file", ROOT / "pyproject.toml", *files, cwd=ROOT)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(packages, kind):
    needs_torch(kind)
    assert " passed" in run("pytest", "-p", "no:cacheprovider", cwd=packages / kind)


@pytest.mark.parametrize("kind", ["decoder", "reranker"])
def test_a_plugin_and_the_wheel_are_all_that_is_needed(kind, tmp_path, photos):
    """Everything below comes from two wheels in a folder, and runs outside of the project."""
    site = tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    isolated = {"cwd": tmp_path, "env": environment}

    def install(source):
        wheels = tmp_path / f"wheel-of-{source.name}"
        pip = ("pip", "--disable-pip-version-check", "--no-input")
        # hatchling is a tool of this project's development, so nothing is fetched.
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source, **isolated)
        run(*pip, "install", "--no-deps", "--target", site, *wheels.iterdir(), **isolated)

    install(ROOT)
    install(ROOT / "plugins" / "mrnn-devtools")
    where = python("-c", "import mrnn_runtime; print(mrnn_runtime.__file__)", **isolated)
    assert Path(where.strip()).is_relative_to(site)
    run("mrnn_runtime", "plugins", "new", "zig", "--kind", kind, **isolated)
    install(tmp_path / "mrnn-zig")
    bundle = tiny_bundle(tmp_path / "bundle")
    options = ("--model", bundle, "--provider", "cpu", "--format", "jsonl", f"--{kind}", "zig")
    output = run("mrnn_runtime", "caption", photos, *options, **isolated)
    records = [json.loads(line) for line in output.splitlines()]
    assert [record[kind] for record in records] == ["zig"] * 3
    assert all(record["caption"] for record in records)
    plugins = json.loads(run("mrnn_runtime", "plugins", "--json", **isolated))
    (zig,) = [plugin for plugin in plugins if plugin["dist"] == "mrnn-zig"]
    assert (zig["status"], zig["version"], zig["hooks"]) == ("ok", "0.1.0", [f"mrnn_{kind}s"])
