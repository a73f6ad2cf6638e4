"""The commands that plugins bring, and stubs for those that are not installed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperGroup

from mrnn_runtime.errors import PluginError
from mrnn_runtime.plugins.manager import clash, manager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from mrnn_runtime.plugins.manager import PluginReport

# What is missed where its distribution is not installed.
_ELSEWHERE = {
    "mrnn-exporters (it brings torch)": {
        "train": "Train a captioner",
        "export": "Make a bundle of a training run",
        "evaluate": "Measure a bundle on a data set",
        "quantize": "Make a smaller and faster bundle of int8",
        "flatten": "Make one ONNX graph of a model",
        "index": "Build references for consensus reranking",
        "calibrate": "Fit the confidence of captions",
    },
    "mrnn-devtools": {
        "bench": "Measure how fast a model captions",
        "plugins new": "Write a package for a plugin of your own",
    },
    "mrnn-serve": {"serve": "Serve captions over HTTP"},
    "mrnn-web": {"web": "Write a web page that captions photos inside the browser"},
    "mrnn-ray": {"ray": "Caption photos on a Ray cluster"},
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
    that it can neither break nor replace those of others. Commands in a group of the name of one of
    ours, such as ``plugins``, are added to ours. A command that two plugins claim stays visible and
    says who they are.

    Raises:
        PluginError: MRNN_STRICT_PLUGINS is set and a plugin is not in order.
    """
    plugins = manager()
    ours = dict(group.commands)
    owners: dict[str, list[PluginReport]] = {}
    for report, hook in plugins.command_hooks():
        app = new_app()
        try:
            hook(app)
            commands = dict(_by_full_name(typer.main.get_group(app).commands, ours))
            for name in sorted(commands):
                if name not in owners and _is_there(group, name):
                    raise PluginError(f"it must not replace the command {name!r} of mrnn-runtime")
        except (Exception, SystemExit) as error:
            plugins.fail(report, error)
            continue
        plugins.add_commands(report, commands)
        for name, command in commands.items():
            owners.setdefault(name, []).append(report)
            place, last = _place(group, name)
            place[last] = command
    for name, claimants in owners.items():
        if len(claimants) > 1:
            _add_refusal(group, name, "Claimed by two plugins", clash("command", name, claimants))
    for dist, missing in _ELSEWHERE.items():
        for name, summary in missing.items():
            if not _is_there(group, name):
                absent = PluginError(
                    f"{name!r} is not part of the light runtime", hint=f"pip install {dist}"
                )
                _add_refusal(group, name, f"{summary} (needs {dist.split()[0]})", absent)
    for name in sorted(group.commands.keys() - ours.keys()):
        group.commands[name] = group.commands.pop(name)


def optional(module: str) -> Any:  # noqa: ANN401 - the module itself
    """Import what some options need beyond the light runtime.

    Raises:
        PluginError: the package is not installed, or does not import.
    """
    dist = module.partition(".")[0].replace("_", "-")
    try:
        return import_module(module)
    except ImportError as error:
        raise PluginError(f"this needs {dist}: {error}", hint=f"pip install {dist}") from error


def _by_full_name(
    commands: Mapping[str, Any], ours: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield each command with the words that call it: two where its group is one of ours."""
    for name, command in commands.items():
        if isinstance(command, TyperGroup) and isinstance(ours.get(name), TyperGroup):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


# Typer carries its own copy of click, whose types are private.
def _place(group: TyperGroup, name: str) -> tuple[MutableMapping[str, Any], str]:
    """Return the commands that the one of this full name stands among, and its last word."""
    outer, _, last = name.rpartition(" ")
    inside: Any = group.commands[outer] if outer else group
    return inside.commands, last


def _is_there(group: TyperGroup, name: str) -> bool:
    place, last = _place(group, name)
    return last in place


def _add_refusal(group: TyperGroup, name: str, summary: str, error: PluginError) -> None:
    """Add a command that takes any arguments and raises ``error``."""
    app = new_app()

    @app.command(
        name.rpartition(" ")[2],
        help=f"{summary}.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def refuse() -> NoReturn:
        raise error

    place, last = _place(group, name)
    (place[last],) = typer.main.get_group(app).commands.values()
