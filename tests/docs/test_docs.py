"""The docs do what they say: their code runs, their references are complete, Sphinx accepts them.

A page is worked through from top to bottom in a folder of its own, with the tiny bundle installed
as the models ``everyday`` and ``flickr8k``. ``python`` blocks share one namespace, ``sh`` blocks
run in a shell, and a block with a caption is written to the file of that name. Where running makes
no sense, the line before the block says ``<!-- not run: REASON -->``; commands of mrnn must parse
all the same.
"""

import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import mrnn_runtime
from mrnn_runtime import build as building
from mrnn_runtime import decoding, testing
from mrnn_runtime.cli import build
from mrnn_runtime.plugins import hookspecs
from mrnn_runtime.testing import tiny_bundle

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PHOTOS = DOCS / "demo" / "photos"
# The page of the commands is generated; its examples need files that nobody has.
SKIPPED = {"demo", "_build", "cli.md"}
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if not SKIPPED & {*p.relative_to(DOCS).parts}]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+) -->\n)?"
    r"^```(?P<info>\S+)(?P<rest>.*)\n(?P<body>(?s:.*?))^```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, where it belongs if it is a file, why it does not run."""

    language: str
    body: str
    file: str
    reason: str


def blocks_of(page):
    blocks = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        language, body, file = match["info"], match["body"], ""
        if language == "{code-block}":
            language = match["rest"].strip()
            head, _, body = body.partition("\n\n")
            file = head.removeprefix(":caption: ")
        blocks.append(Block(language, body, file, match["reason"] or ""))
    return blocks


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The tiny bundle, with references."""
    index = pytest.importorskip("mrnn_exporters.references", reason="the docs use mrnn-exporters")
    folder = tmp_path_factory.mktemp("docs")
    lay_out_photos(folder)
    bundle = tiny_bundle(folder / "bundle")
    index.build(bundle, folder / "references", sets=[("folder", str(folder / "my-photos"))])
    index.add(folder / "references", bundle)
    return bundle


@pytest.fixture
def desk(model, tmp_path, monkeypatch):
    """A folder to work in: photos, a model, and the programs that the docs call."""
    site, programs, work = (tmp_path / name for name in ("site", "bin", "work"))
    for folder in (site, programs, work):
        folder.mkdir()
    install_model(site, model)
    for name, command in {
        "mrnn": "-m mrnn_runtime",
        "pytest": "-m pytest -q -p no:cacheprovider",
        "pip": f"{Path(__file__).with_name('pip_stand_in.py')} {site}",
    }.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    lay_out_photos(work)
    tiny_bundle(work / "a-model")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, sys.path)]))
    monkeypatch.setenv("HOME", str(tmp_path))
    # What only this test says makes the process take a plugin manager of its own.
    monkeypatch.setenv("MRNN_DISABLE_PLUGINS", f"none-of-{tmp_path.name}")
    monkeypatch.delenv("MRNN_STRICT_PLUGINS", raising=False)
    monkeypatch.delenv("MRNN_MODEL", raising=False)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(work)
    return work


def install_model(site, model):
    """Install a bundle as both of our models; the first on the path hides the real ones."""
    for name in ("everyday", "flickr8k"):
        (site / f"docs_{name}").mkdir()
        (site / f"docs_{name}" / "__init__.py").write_text(
            "from pathlib import Path\n"
            "from mrnn_runtime import Component, hookimpl\n"
            "@hookimpl\n"
            "def mrnn_models():\n"
            f"    return [Component('{name}', 'docs_{name}:bundle_path', 'stands in')]\n"
            "def bundle_path():\n"
            f"    return Path({str(model)!r})\n"
        )
        info = site / f"mrnn_{name}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: mrnn-{name}\nVersion: 0.1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[mrnn]\n{name} = docs_{name}\n")


def lay_out_photos(work):
    """Put down dog.jpg, photos/ to caption, and my-photos/ to train on, with sentences."""
    shutil.copytree(PHOTOS, work / "photos")
    shutil.copy(PHOTOS / "dog.jpg", work)
    (work / "my-photos").mkdir()
    subjects = {photo.stem: photo for photo in PHOTOS.glob("*.jpg")}
    with (work / "my-photos" / "captions.jsonl").open("w") as lines:
        for number in range(24):
            name, photo = list(subjects.items())[number % len(subjects)]
            target = work / "my-photos" / f"{number}.jpg"
            shutil.copy(photo, target)
            sentences = [f"a photo of the {name}", f"the {name} is in the photo"]
            target.with_suffix(".txt").write_text("\n".join(sentences))
            print(json.dumps({"file": target.name, "captions": sentences}), file=lines)


def shell(body):
    done = subprocess.run(["sh", "-eu", "-c", body], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"


def parse(body):
    """Parse the commands of mrnn in a shell block as the command line would."""
    for line in body.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "mrnn":
            command = build()
            context = command.make_context("mrnn", words)
            while rest := [*context._protected_args, *context.args]:
                name, command, words = command.resolve_command(context, rest)
                context = command.make_context(name, words, parent=context)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_of_a_page_runs(page, desk):
    names = {"__name__": "docs"}
    for block in blocks_of(page):
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.body, encoding="utf-8")
        elif block.language == "sh":
            parse(block.body) if block.reason else shell(block.body)
        elif block.language == "python" and not block.reason:
            exec(compile(block.body, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_block_is_seen(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks_of(page))


def test_the_page_of_the_commands_is_fresh():
    spec = importlib.util.spec_from_file_location("docs_cli", DOCS / "cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for package in ("mrnn_devtools", "mrnn_exporters", "mrnn_ray", "mrnn_serve"):
        pytest.importorskip(package, reason="its commands are on the page")
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python docs/cli.py"


def test_the_page_of_results_is_that_of_the_figures():
    spec = importlib.util.spec_from_file_location("docs_results", DOCS / "results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert page == module.page(module.load()), "run: python docs/results.py"


def test_the_costs_are_those_of_the_benchmarks_and_of_the_code():
    spec = importlib.util.spec_from_file_location("docs_costs", DOCS / "costs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run: python docs/costs.py"
    parts = pytest.importorskip("mrnn_ray.parts", reason="mrnn-ray is not installed")
    shards = pytest.importorskip("mrnn_exporters.shards", reason="mrnn-exporters is not installed")
    assert parts._AHEAD == module.REQUEST
    assert shards._record(module.WIDTH).itemsize == module.ENTRY


def test_the_files_that_the_tutorial_names_are_in_the_package(tmp_path):
    scaffold = pytest.importorskip("mrnn_devtools.scaffold", reason="mrnn-devtools makes it")
    package = scaffold.write_package("no-echo", scaffold.PartKind.RERANKER, tmp_path / "new")
    text = (DOCS / "tutorial" / "first-plugin.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w/.]+)` \|", text, re.MULTILINE)
    assert len(names) == 3
    assert [name for name in names if not (package / name).is_file()] == []


def test_every_hook_is_there_with_its_signature():
    text = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")
    documented = re.findall(r"^```\{py:function\} (.+)$", text, re.MULTILINE)
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("mrnn_")}
    wanted = [f"{name}{inspect.signature(hook)}".replace("'", "") for name, hook in hooks.items()]
    assert sorted(documented) == sorted(wanted)


def test_every_public_name_is_there():
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto\w+:: mrnn_runtime\.(\w+)$", text, re.MULTILINE)
    documented += re.findall(r"^\.\. data:: mrnn_runtime\.(\w+)$", text, re.MULTILINE)
    assert {*documented} - {"build"} == {*mrnn_runtime.__all__}
    for module in (building, decoding, testing):
        documented = re.findall(rf"^\.\. auto\w+:: {module.__name__}\.(\w+)$", text, re.MULTILINE)
        assert sorted(documented) == sorted(module.__all__)


def test_every_field_of_a_bundle_is_there():
    text = (DOCS / "reference" / "bundle.md").read_text(encoding="utf-8")
    bundle = ROOT / "mrnn_runtime" / "testing" / "tiny" / "bundle.json"
    for name in json.loads(bundle.read_text(encoding="utf-8")):
        assert f"`{name}`" in text, name


def test_every_plugin_that_ships_is_there():
    text = (DOCS / "plugins" / "index.md").read_text(encoding="utf-8")
    for dist in [path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")]:
        assert f"`{dist}`" in text, dist


@pytest.mark.slow
def test_sphinx_accepts_all_pages(tmp_path):
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason="make docs installs it")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", tmp_path / "trees", DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
