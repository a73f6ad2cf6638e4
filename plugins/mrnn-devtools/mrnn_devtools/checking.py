"""What ``mrnn plugins --check`` finds out about a plugin beyond what it takes to admit it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from mrnn_runtime import PluginError

if TYPE_CHECKING:
    from mrnn_runtime.build import PluginReport

# What a hook module may not import: each costs more than all of ``mrnn --help``.
HEAVY = ("PIL", "numpy", "onnxruntime", "torch")


def more_problems(report: PluginReport) -> list[str]:
    """Return what is wrong with a plugin that is in use, one line each."""
    if report.status in ("failed", "disabled"):
        return []
    problems = []
    try:
        problems += [
            f"its hook module imports {name}; import it where it is used"
            for name in heavy_imports(report.module.partition(":")[0])
        ]
    except PluginError as error:
        problems.append(str(error))
    for _, component in report.components:
        try:
            component.load()
        except PluginError as error:
            problems.append(str(error))
    return problems


def heavy_imports(module: str) -> list[str]:
    """Import a hook module in a process of its own; return which of ``HEAVY`` it loaded.

    Raises:
        PluginError: it does not import there, or ends it.
    """
    script = (
        "import importlib, json, os, sys; sys.path[:] = json.loads(sys.argv[2]);"
        "importlib.import_module(sys.argv[1]);"
        r"print('\n' + json.dumps(sorted(sys.modules)), flush=True);"
        "os._exit(0)"  # what a module does at exit would come behind
    )
    child = subprocess.run(
        [sys.executable, "-c", script, module, json.dumps(sys.path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise PluginError(f"{module} does not import on its own: {reason[0]}")
    try:
        loaded = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise PluginError(f"{module} ends the process that imports it") from error
    return [name for name in HEAVY if name in loaded]
