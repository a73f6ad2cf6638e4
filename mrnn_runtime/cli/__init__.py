"""The command line. Modules of this package import what a command needs inside its function."""

from __future__ import annotations

import sys
import traceback
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import (
    caption,
    config,
    doctor,
    extensions,
    models,
    output,
    plugins,
    search,
    stopping,
)
from mrnn_runtime.errors import MrnnError
from mrnn_runtime.plugins.manager import is_strict, manager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer.core import TyperGroup
    from typer.models import CommandInfo


def main(args: Sequence[str] | None = None) -> None:
    """Run ``mrnn`` and exit: 0 all good, 1 some images failed, 2 usage, 3 environment.

    Args:
        args: what follows the program's name; None takes it from the process.
    """
    own_process = args is None
    args = sys.argv[1:] if args is None else args
    if own_process:
        stopping.fill_closed_streams()
    # Plugins fail before arguments are parsed. No option of the program itself takes a value.
    wanted = "--traceback" in takewhile(lambda arg: arg.startswith("-"), args)
    name = next((arg for arg in args if not arg.startswith("-")), "")
    job = partial(_run, args, name, wanted=wanted)
    with output.logged_warnings():
        if name in _OURS:
            stopping.run(job, own_process=own_process)
        else:  # a plugin's command may have a way of its own to stop
            job()


def _run(args: Sequence[str], name: str, *, wanted: bool) -> None:
    try:
        tables = config.read_config() if name else {}
        others = tables.keys() - _OURS  # what plugins bring, or nobody does
        group = build(tracebacks=wanted, alone="" if is_strict() or others else name)
        defaults = config.defaults(
            group, {k: tables[k] for k in tables if k in others or k == name}
        )
        group(args=args, prog_name="mrnn", default_map=defaults)
    except (MrnnError, OSError) as error:
        if wanted or is_strict():
            traceback.print_exception(error)
        # An OSError is a full disk, say; what users can fix has been mapped before.
        sys.exit(output.complain(error if isinstance(error, MrnnError) else MrnnError(str(error))))
    except KeyboardInterrupt:
        sys.exit(stopping.INTERRUPTED)


def build(*, tracebacks: bool = False, alone: str = "") -> TyperGroup:
    """Return all commands: ours, those of the plugins, and stubs for what is not installed.

    Args:
        tracebacks: whether to show where a plugin failed, beside that it did.
        alone: the one that is wanted; where it is ours and no other concerns it, the others, which
            take longer to build than it, are left out.

    Raises:
        PluginError: MRNN_STRICT_PLUGINS is set and a plugin is not in order.
    """
    app = extensions.new_app()
    app.callback(no_args_is_help=True, epilog=_EPILOG)(_root)
    app.command(cls=output.Sections, epilog=caption.EXAMPLES)(caption.caption)
    app.command(epilog=search.SEARCH_EXAMPLES)(search.search)
    app.command(epilog=search.RANK_EXAMPLES)(search.rank)
    for command in (models.models, models.verify, doctor.doctor):
        app.command()(command)
    if alone in {_name(command) for command in app.registered_commands} - {"doctor"}:
        app.registered_commands = [one for one in app.registered_commands if _name(one) == alone]
        group = typer.main.get_group(app)
    else:
        app.add_typer(plugins.new_app(), name="plugins")
        group = typer.main.get_group(app)
        group.params += typer.main.get_install_completion_arguments()
        extensions.extend(group)
    for report in manager().report():
        if report.status == "failed":
            output.warn(f"warning: plugin {report.name!r} of {report.dist}: {report.error}")
            if tracebacks:
                print(report.traceback, file=sys.stderr, end="")
    output.listen_to(group)
    return group


def _name(command: CommandInfo) -> str:
    return str(command.name or getattr(command.callback, "__name__", ""))


_OURS = frozenset({"caption", "doctor", "models", "rank", "search", "verify"})
_EPILOG = """\b
mrnn caption photos/                     caption every image of a folder
mrnn caption a.jpg --format jsonl        with scores and candidates
mrnn doctor                              see what works on this machine

Exit codes: 0 all good, 1 some images failed, 2 usage, 3 environment, bundle, plugin or provider.
"""


def _version(wanted: bool) -> None:
    if wanted:
        from mrnn_runtime import __version__

        typer.echo(f"mrnn {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
    tracebacks: Annotated[  # main() has looked for it already
        bool, typer.Option("--traceback", help="Show where an error or a plugin's failure arose.")
    ] = False,
) -> None:
    """Caption images with the m-RNN on ONNX Runtime."""
