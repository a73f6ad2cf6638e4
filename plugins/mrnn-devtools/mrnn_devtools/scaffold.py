"""Packages for plugins, written from templates."""

from __future__ import annotations

import importlib.util
import re
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The templates keep to 100 columns for names of up to 32 characters.
_NAME = re.compile(r"(?=.{1,32}$)[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Templates lie as plain files with this suffix, which keeps linters and importers off them.
_SUFFIX = ".tmpl"
_TEMPLATES = Path(__file__).parent / "templates"


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


def write_package(name: str, kind: PartKind, folder: Path | None = None) -> Path:
    """Write a package that works as it is: a component, its contract test, settings of tools.

    Args:
        name: what users will type; ``mrnn-`` before it is left out.
        kind: what the plugin brings.
        folder: the new folder; by default mrnn-NAME in the current one.

    Returns:
        The folder.

    Raises:
        UsageError: the name cannot be used or is taken, or the folder exists.
    """
    from mrnn_runtime.build import manager

    name = name.removeprefix("mrnn-")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a plugin",
            hint="use at most 32 small letters and digits, a letter first, single hyphens between",
        )
    package = f"mrnn_{name.replace('-', '_')}"
    offered = {(k, c.name) for report in manager().report() for k, c in report.components}
    taken = (f"{kind}s", name) in offered
    if taken or importlib.util.find_spec(package):
        what = f"a {kind} {name!r}" if taken else f"a package {package!r}"
        raise UsageError(f"{what} is installed already", hint="choose another name")
    folder = folder or Path(f"mrnn-{name}")
    if folder.exists():
        raise UsageError(f"{folder} exists already", hint="name a new folder with --output")
    _write(folder, name, package, kind)
    return folder


def _write(folder: Path, name: str, package: str, kind: PartKind) -> None:
    from mrnn_runtime import __version__
    from mrnn_runtime.build import CONTRACT

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
