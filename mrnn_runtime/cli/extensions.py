"""The commands that plugins bring, and stubs for those that are not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import typer

from mrnn_runtime.errors import PluginError
from mrnn_runtime.plugins.manager import clash, manager

if TYPE_CHECKING:
    from typer.core import TyperGroup

    from mrnn_runtime.plugins.manager import PluginReport

_HEAVY_COMMANDS = {
    "train": "Train a captioner",
    "export": "Make a bundle of a training run",
    "evaluate": "Measure a bundle on a data set",
    "quantize": "Make a smaller and faster bundle of int8",
    "index": "Build references for consensus reranking",
}


def new_app() -> typer.Typer:
    """Return an application without commands, with the settings of all of ``mrnn``.

    Plain help: Rich doubles the start-up time of ``mrnn --help``, and its tracebacks are for
    programmers.
    """
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def extend(group: TyperGroup) -> None:
    """Add every plugin's commands to ``group``; a plugin that fails adds none.

    Each plugin gets an application of its own, whose commands are built before they are added, so
    that it can neither break nor replace those of others. A command that two plugins claim stays
    visible and says who they are.

    Raises:
        PluginError: MRNN_STRICT_PLUGINS is set and a plugin is not in order.
    """
    plugins = manager()
    ours = frozenset(group.commands)
    owners: dict[str, list[PluginReport]] = {}
    for report, hook in plugins.command_hooks():
        app = new_app()
        try:
            hook(app)
            commands = typer.main.get_group(app).commands
            for name in sorted(ours & commands.keys()):
                raise PluginError(f"it must not replace the command {name!r} of mrnn-runtime")
        except (Exception, SystemExit) as error:
            plugins.fail(report, error)
            continue
        plugins.add_commands(report, commands)
        for name, command in commands.items():
            owners.setdefault(name, []).append(report)
            group.commands[name] = command
    for name, claimants in owners.items():
        if len(claimants) > 1:
            _add_refusal(group, name, "Claimed by two plugins", clash("command", name, claimants))
    for name, summary in _HEAVY_COMMANDS.items():
        if name not in group.commands:
            missing = PluginError(
                f"{name!r} is not part of the light runtime",
                hint="pip install mrnn-exporters (it brings torch)",
            )
            _add_refusal(group, name, f"{summary} (needs mrnn-exporters)", missing)
    for name in sorted(group.commands.keys() - ours):
        group.commands[name] = group.commands.pop(name)


def _add_refusal(group: TyperGroup, name: str, summary: str, error: PluginError) -> None:
    """Add a command that takes any arguments and raises ``error``."""
    app = new_app()

    @app.command(
        name,
        help=f"{summary}.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def refuse() -> NoReturn:
        raise error

    group.commands[name] = typer.main.get_group(app).commands[name]
