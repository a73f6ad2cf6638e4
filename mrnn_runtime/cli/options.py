"""Options that several commands share, and how the others are declared."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def option(metavar: str | None, text: str, section: str | None = None) -> Any:  # noqa: ANN401
    """Declare an option that takes a value; ``section`` opens a section of the help."""
    return typer.Option(metavar=metavar, help=text, rich_help_panel=section)


def flag(name: str, text: str) -> Any:  # noqa: ANN401
    """Declare an option that takes no value and has no opposite."""
    return typer.Option(name, help=text)


Json = Annotated[bool, flag("--json", "Write JSON.")]
Model = Annotated[
    str | None,
    option(
        "NAME|DIR",
        "An installed model, or the folder of a bundle. Without it: the only installed model, else"
        " the one that MRNN_MODEL names, else everyday.",
        "Model",
    ),
]
Provider = Annotated[
    str,
    option("auto|cpu|cuda|tensorrt", "Where to run. Only auto may fall back, and it says so."),
]
