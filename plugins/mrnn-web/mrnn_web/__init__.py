"""The command ``mrnn web``, and the page of ``mrnn serve``. Light; the work is in ``site``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_runtime import hookimpl

if TYPE_CHECKING:
    import typer

MRNN_CONTRACT = 1


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Register web."""
    from mrnn_web.command import EXAMPLES, web

    app.command(epilog=EXAMPLES)(web)
