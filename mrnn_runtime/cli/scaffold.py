"""``mrnn plugins new``."""

from __future__ import annotations

import importlib.util
import re
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import output as speech
from mrnn_runtime.errors import UsageError
from mrnn_runtime.plugins.hookspecs import CONTRACT
from mrnn_runtime.plugins.manager import KINDS, manager

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXAMPLES = """\b
mrnn plugins new zigzag --kind decoder
mrnn plugins new street-scenes --kind model --output ../street-scenes
"""

# The templates keep to 100 columns for names of up to 32 characters.
_NAME = re.compile(r"(?=.{1,32}$)[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Templates lie as plain files with this suffix, which keeps linters and importers off them.
_SUFFIX = ".tmpl"
_TEMPLATES = Path(__file__).parents[1] / "templates"


class PartKind(StrEnum):
    """What a plugin can bring."""

    BACKBONE = "backbone"
    CELL = "cell"
    COMMAND = "command"
    DECODER = "decoder"
    MODEL = "model"
    RERANKER = "reranker"


_USES = {
    PartKind.BACKBONE: "mrnn train --backbone $name --weights random --dataset folder --root DIR",
    PartKind.CELL: "mrnn train --cell $name --dataset folder --root DIR",
    PartKind.COMMAND: "mrnn $name photo.jpg",
    PartKind.DECODER: "mrnn caption photo.jpg --decoder $name",
    PartKind.MODEL: "mrnn caption photo.jpg --model $name",
    PartKind.RERANKER: "mrnn caption photo.jpg --reranker $name",
}
# What it needs beside the runtime, to be used and to be tested.
_DEPENDENCIES = {
    PartKind.BACKBONE: ("torch>=2.10",),
    PartKind.CELL: ("mrnn-exporters>=$version", "torch>=2.10"),
}
_TEST_DEPENDENCIES = {PartKind.BACKBONE: ("mrnn-exporters>=$version",)}


def new(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="What users will type, for example zigzag; the package becomes mrnn-NAME.",
            show_default=False,
        ),
    ],
    kind: Annotated[PartKind, typer.Option(help="What it brings.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make. Without it: mrnn-NAME, here."),
    ] = None,
) -> None:
    """Write a package for a plugin of your own; it works as it is.

    It holds one component, a test that the component keeps its contract, and settings for ruff and
    mypy. Change what it does, and let the test tell whether it still fits.
    """
    name = name.removeprefix("mrnn-")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a plugin",
            hint="use at most 32 small letters and digits, a letter first, single hyphens between",
        )
    package = f"mrnn_{name.replace('-', '_')}"
    taken = [each for each in KINDS if each == f"{kind}s" and name in manager().components(each)]
    if taken or importlib.util.find_spec(package):
        what = f"a {kind} {name!r}" if taken else f"a package {package!r}"
        raise UsageError(f"{what} is installed already", hint="choose another name")
    folder = output or Path(f"mrnn-{name}")
    if folder.exists():
        raise UsageError(f"{folder} exists already", hint="name a new folder with --output")
    _write(folder, name, package, kind)
    typer.echo(folder)
    speech.note(f'next: cd {folder}; pip install -e ".[test]"; pytest')


def _write(folder: Path, name: str, package: str, kind: PartKind) -> None:
    from mrnn_runtime import __version__

    facts = {
        "name": name,
        "package": package,
        "kind": kind.value,
        "contract": str(CONTRACT),
        "version": __version__.partition("+")[0],
    }
    facts["use"] = Template(_USES[kind]).substitute(facts)
    facts["dependencies"] = _lines(_DEPENDENCIES.get(kind, ()), facts)
    facts["test_dependencies"] = _lines(_TEST_DEPENDENCIES.get(kind, ()), facts)
    for part in (_TEMPLATES / "common", _TEMPLATES / kind):
        for source in sorted(part.rglob(f"*{_SUFFIX}")):
            place = source.relative_to(part).with_suffix("").as_posix()
            target = folder / place.replace("package", package)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = Template(source.read_text("utf-8")).substitute(facts)
            target.write_text(text, encoding="utf-8", newline="\n")
    if kind is PartKind.MODEL:
        from mrnn_runtime.testing import tiny_bundle

        tiny_bundle(folder / package / "bundle")


def _lines(needs: Iterable[str], facts: Mapping[str, str]) -> str:
    """Return what a list in pyproject.toml has in addition, a line each."""
    return "".join(f'\n    "{Template(need).substitute(facts)}",' for need in needs)
