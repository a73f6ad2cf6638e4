"""``mrnn plugins``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import extensions, options, output
from mrnn_runtime.plugins.manager import KINDS, manager

if TYPE_CHECKING:
    from mrnn_runtime.plugins.manager import PluginReport


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
            " wrong (needs mrnn-devtools).",
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
    problems = {report.key: [report.error] if report.error else [] for report in reports}
    if check:
        more = extensions.optional("mrnn_devtools.checking").more_problems
        problems = {report.key: problems[report.key] + more(report) for report in reports}
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
