"""How the command line speaks: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from mrnn_runtime.errors import ImageError, MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOME_IMAGES_FAILED = 1
USAGE = 2
ENVIRONMENT = 3


def note(text: str) -> None:
    """Write one line to stderr, above the progress bar where there is one."""
    print(f"mrnn: {text}", file=sys.stderr)


def complain(error: MrnnError) -> int:
    """Write an error, and its hint below, to stderr; return the exit code that it stands for."""
    note(f"error: {error.message}")
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    if isinstance(error, UsageError):
        return USAGE
    return SOME_IMAGES_FAILED if isinstance(error, ImageError) else ENVIRONMENT


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows to stdout as aligned columns."""
    lines = [[name.upper() for name in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
