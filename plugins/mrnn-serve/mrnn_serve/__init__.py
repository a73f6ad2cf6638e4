"""``mrnn serve``. Light; the command imports the server when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_runtime import hookimpl

if TYPE_CHECKING:
    import typer

MRNN_CONTRACT = 1


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Add the command."""
    from mrnn_serve.command import EXAMPLES, serve

    app.command(epilog=EXAMPLES)(serve)
