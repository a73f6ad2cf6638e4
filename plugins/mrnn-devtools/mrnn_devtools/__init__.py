"""The commands ``mrnn bench`` and ``mrnn plugins new``. Light: numpy is imported when they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_runtime import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Register ``bench``, and ``new`` below ``plugins``."""
    import typer

    from mrnn_devtools import commands

    app.command()(commands.bench)
    plugins = typer.Typer()
    plugins.command(epilog=commands.EXAMPLES)(commands.new)
    app.add_typer(plugins, name="plugins")
