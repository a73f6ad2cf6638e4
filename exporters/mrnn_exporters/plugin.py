"""What mrnn-exporters adds to ``mrnn``: three commands and the cells. Light: no torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_runtime import Component, hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def mrnn_cells() -> list[Component]:
    """Register the recurrent cells."""
    return [
        Component("m-rnn", "mrnn_exporters.nets:m_rnn", "the paper's net: plain ReLU recurrence"),
        Component("gru", "mrnn_exporters.nets:gru", "the paper's net with a GRU for recurrence"),
    ]


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Register train, export and evaluate."""
    from mrnn_exporters import commands

    app.command()(commands.train)
    app.command()(commands.export)
    app.command(epilog=commands.EVALUATE_EXAMPLES)(commands.evaluate)
