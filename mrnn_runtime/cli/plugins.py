"""``mrnn plugins``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import extensions, options, output
from mrnn_runtime.errors import PluginError
from mrnn_runtime.plugins.manager import KINDS, manager

if TYPE_CHECKING:
    from mrnn_runtime.plugins.manager import PluginReport

# What a hook module may not import: each costs more than all of ``mrnn --help``.
HEAVY = ("PIL", "numpy", "onnxruntime", "torch")


def new_app() -> typer.Typer:
    """Return ``mrnn plugins``, which lists; plugins may bring subcommands."""
    app = extensions.new_app()
    app.callback(invoke_without_command=True)(plugins)
    return app


def plugins(
    context: typer.Context,
    as_json: options.Json = False,
    check: Annotated[
        bool,
        options.flag(
            "--check",
            "Load everything that is offered and look for heavy imports; exit 3 where something is"
            " wrong.",
        ),
    ] = False,
) -> None:
    """List the plugins, what they offer and what is wrong.

    MRNN_DISABLE_PLUGINS=a,b leaves plugins or packages out; MRNN_STRICT_PLUGINS=1 makes every
    failure an error.
    """
    if context.invoked_subcommand:
        return
    reports = manager().report()
    problems = {
        report.key: _problems(report) if check else [report.error] if report.error else []
        for report in reports
    }
    if as_json:
        records = [_record(report) | {"problems": problems[report.key]} for report in reports]
        typer.echo(json.dumps(records, indent=1))
    else:
        output.table(
            ("plugin", "package", "status", "offers"),
            [
                (report.name, f"{report.dist} {report.version}", report.status, _offers(report))
                for report in reports
            ],
        )
        for report in reports:
            for problem in problems[report.key]:
                typer.echo(f"{report.name}: {problem}")
    if check and any(problems.values()):
        raise typer.Exit(output.ENVIRONMENT)


def heavy_imports(module: str) -> list[str]:
    """Import a hook module in a process of its own; return which of ``HEAVY`` it loaded.

    Raises:
        PluginError: it does not import there.
    """
    script = (
        "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[2]);"
        "importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, module, json.dumps(sys.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise PluginError(f"{module} does not import on its own: {reason[0]}")
    loaded = json.loads(child.stdout.splitlines()[-1])
    return [name for name in HEAVY if name in loaded]


def _problems(report: PluginReport) -> list[str]:
    """Return all that is wrong with a plugin, one line each."""
    if report.status in ("failed", "disabled"):
        return [report.error] if report.error else []
    problems = [report.error] if report.error else []
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


def _offers(report: PluginReport) -> str:
    names: dict[str, list[str]] = {
        kind: [component.name for its_kind, component in report.components if its_kind == kind]
        for kind in KINDS
    }
    names["commands"] = list(report.commands)
    return "; ".join(f"{kind}: {_some(offered)}" for kind, offered in names.items() if offered)


def _some(names: list[str], most: int = 6) -> str:
    rest = [f"and {len(names) - most} more (see --json)"] if len(names) > most else []
    return ", ".join(names[:most] + rest)


def _record(report: PluginReport) -> dict[str, object]:
    components = [{"kind": kind, **asdict(component)} for kind, component in report.components]
    record = asdict(report) | {"components": components}
    del record["traceback"]
    return record
