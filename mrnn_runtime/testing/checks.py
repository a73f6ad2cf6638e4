"""Which checks there are for what a plugin offers."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mrnn_runtime.errors import PluginError
from mrnn_runtime.plugins.hookspecs import PROJECT
from mrnn_runtime.plugins.manager import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import ModuleType

    from mrnn_runtime.plugins.contracts import Component
    from mrnn_runtime.plugins.manager import Kind

# Each of these modules has CHECKS: functions that take a component's target. Those of the parts
# that torch trains live where torch lives.
_KITS: dict[Kind, str] = {
    "backbones": "mrnn_exporters.testing.backbones",
    "cells": "mrnn_exporters.testing.cells",
    "decoders": "mrnn_devtools.testing.decoders",
    "models": "mrnn_devtools.testing.models",
    "rerankers": "mrnn_devtools.testing.rerankers",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One rule of a contract; ``str(check)`` is its name.

    Attributes:
        name: who is checked, and what for.
        run: returns where the rule is kept, else raises AssertionError, which says what is wrong,
            or what the plugin itself raised.
    """

    name: str
    run: Callable[[], None]

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def checks_for(component: Component, kind: Kind, *, bundle: Path | None = None) -> list[Check]:
    """Return the checks of one component.

    Args:
        component: what a hook registers.
        kind: ``backbones``, ``cells``, ``decoders``, ``models`` or ``rerankers``.
        bundle: the folder of the bundle that a reranker is made for, with references in it where
            the reranker needs some; by default the tiny one, with made-up references.

    Raises:
        PluginError: the checks of this kind are not installed.
    """
    kit = _kit(_KITS[kind], kind)

    def run(check: Callable[[Any], None]) -> None:
        if kind != "rerankers":
            check(component.load())
            return
        with kit.example(bundle) as arguments:
            check(partial(component.load(), *arguments))

    return [
        Check(f"{component.name}: {check.__name__.replace('_', ' ')}", partial(run, check))
        for check in kit.CHECKS
    ]


def plugin_checks(
    plugin: ModuleType, *, only: Collection[str] = (), bundle: Path | None = None
) -> list[Check]:
    """Return the checks of a whole plugin: of its hooks, its commands and its components.

    The plugin need not be installed; its package must be importable.

    Args:
        plugin: the module that implements the hooks.
        only: names of the components to check, where all would take too long.
        bundle: see ``checks_for``.

    Raises:
        PluginError: mrnn-devtools, or the checks of a component, are not installed.
    """
    _kit("mrnn_devtools.checking", "plugins")
    name = plugin.__name__
    checks = [Check(f"{name}: mrnn plugins --check finds nothing wrong", partial(_in_order, name))]
    if hasattr(plugin, f"{PROJECT}_commands"):
        checks.append(Check(f"{name}: its commands have help", partial(_commands_have_help, name)))
    for kind in KINDS:
        for component in getattr(plugin, f"{PROJECT}_{kind}", list)():
            if not only or component.name in only:
                checks += checks_for(component, kind, bundle=bundle)
    return checks


def tiny_bundle(folder: Path) -> Path:
    """Write a small, real bundle into ``folder``, which must not exist, and return it.

    It is an m-RNN with random weights for 16 x 16 pixels and 12 tokens: its captions mean nothing,
    but its files are what an exporter writes, and all of the runtime runs on them.
    """
    return Path(shutil.copytree(Path(__file__).parent / "tiny", folder))


def require(rule: object, complaint: str) -> None:
    """Raise AssertionError unless ``rule`` holds; unlike ``assert``, also under ``python -O``."""
    if not rule:
        raise AssertionError(complaint)


def _kit(module: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        dist = module.partition(".")[0].replace("_", "-")
        raise PluginError(
            f"the checks of {what} are part of {dist}: {error}", hint=f"pip install {dist}"
        ) from error


def _in_order(module: str) -> None:
    problems = _report(module, "--check")["problems"]
    require(not problems, "; ".join(problems))


def _commands_have_help(module: str) -> None:
    for command in _report(module)["commands"]:
        child = _mrnn(module, *command.split(), "--help")
        require(child.returncode == 0, f"mrnn {command} --help fails: {child.stderr}")
        text = child.stdout.partition("\n\n")[2]
        require(not text.startswith("Options:"), f"mrnn {command} has no docstring to show as help")


def _report(module: str, *options: str) -> Any:  # noqa: ANN401 - JSON
    child = _mrnn(module, "plugins", "--json", *options)
    require(child.stdout, f"mrnn plugins says nothing but {child.stderr}")
    (record,) = [one for one in json.loads(child.stdout) if one["dist"] == "contract-check"]
    return record


def _mrnn(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run ``mrnn`` in a process of its own, in which ``module`` is the only plugin."""
    with TemporaryDirectory() as folder:
        info = Path(folder, "contract_check-1.dist-info")
        info.mkdir()
        facts = "Metadata-Version: 2.1\nName: contract-check\nVersion: 1\n"
        (info / "METADATA").write_text(facts, encoding="utf-8")
        entry = f"[{PROJECT}]\ncontract-check = {module}\n"
        (info / "entry_points.txt").write_text(entry, encoding="utf-8")
        others = {point.dist.name for point in entry_points(group=PROJECT) if point.dist}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([folder, *filter(None, sys.path)]),
            "MRNN_DISABLE_PLUGINS": ",".join(others),
            "MRNN_STRICT_PLUGINS": "",
        }
        command = [sys.executable, "-m", "mrnn_runtime", *args]
        return subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False
        )
