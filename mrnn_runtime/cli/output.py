"""How the command line speaks: results on stdout, everything else on stderr."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperOption

from mrnn_runtime.errors import ImageError, MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

T = TypeVar("T")

# What moves a terminal's cursor, ends a line or turns the direction of writing.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

SOME_IMAGES_FAILED = 1
USAGE = 2
ENVIRONMENT = 3


def one_line(text: str) -> str:
    """Return a text, the name of a file perhaps, as one line that a terminal only shows."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


# How much a run says on stderr, beyond what goes wrong; see listen_to.
_verbosity = 0


def listen_to(command: Any) -> None:  # noqa: ANN401 - click's types are private in Typer
    """Give a command, and those inside of it, the options -q and -v."""
    global _verbosity
    _verbosity = 0
    for inner in getattr(command, "commands", {}).values():
        listen_to(inner)
    taken = {opt for parameter in command.params for opt in parameter.opts}
    for short, name, level, summary in (
        ("-q", "--quiet", -1, "Say nothing on stderr but what goes wrong."),
        ("-v", "--verbose", 1, "Say more on stderr."),
    ):
        if not taken & {short, name}:
            command.params.append(
                TyperOption(
                    param_decls=[short, name],
                    is_flag=True,
                    default=False,
                    expose_value=False,
                    callback=partial(_set_verbosity, level),
                    help=summary,
                )
            )


def _set_verbosity(level: int, _: object, __: object, wanted: bool) -> None:
    global _verbosity
    if wanted:
        _verbosity = level


def warn(text: str, *, prefix: str = "mrnn: ") -> None:
    """Write one line to stderr, above the progress bar where there is one: what goes wrong."""
    print(prefix + one_line(text), file=sys.stderr)


@contextmanager
def logged_warnings() -> Iterator[None]:
    """Show what the runtime logs while the block runs, as warnings of the command line."""
    import logging

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warn(f"warning: {record.getMessage()}")  # type: ignore[method-assign]
    logger = logging.getLogger("mrnn_runtime")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def note(text: str) -> None:
    """Write one line to stderr that -q leaves out."""
    if _verbosity >= 0:
        warn(text)


def detail(text: str) -> None:
    """Write one line to stderr that -v asks for."""
    if _verbosity > 0:
        warn(text)


def complain(error: MrnnError) -> int:
    """Write an error, and its hint below, to stderr; return the exit code that it stands for."""
    warn(f"error: {error.message}")
    if error.hint:
        warn(error.hint, prefix="hint: ")
    if isinstance(error, UsageError):
        return USAGE
    return SOME_IMAGES_FAILED if isinstance(error, ImageError) else ENVIRONMENT


def summary(captioned: int, failed: int, skipped: Mapping[str, int], seconds: float) -> None:
    """Write one line about a run to stderr.

    Args:
        captioned: images with a caption.
        failed: images without.
        skipped: files of folders that are no images, by suffix.
        seconds: what the images took.
    """
    kinds = sorted(skipped.items(), key=lambda kind: (-kind[1], kind[0]))
    listed = [f"{count} {suffix or 'without suffix'}" for suffix, count in kinds[:5]]
    listed += ["..."] if len(kinds) > 5 else []
    left_out = f"{sum(skipped.values())} skipped" + (f" ({', '.join(listed)})" if listed else "")
    rate = (captioned + failed) / seconds if seconds else 0.0
    note(f"{captioned} captioned, {failed} failed, {left_out}; {rate:.1f} images/s")


def watched(things: Iterator[T], total: int) -> Iterator[T]:
    """Pass things on, with a progress bar on stderr where that is a terminal."""
    with progress(things, total) as passed:
        yield from passed


@contextmanager
def progress(things: Iterator[T], total: int) -> Iterator[Iterator[T]]:
    """Give the things, with a progress bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or total < 2 or _verbosity < 0:
        yield things
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    # On a terminal that shows both streams, results must go above the bar; in a pipe, untouched.
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    ) as bar:
        yield iter(bar.track(things, total=total))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows to stdout as aligned columns."""
    lines = [[name.upper() for name in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


class Sections(TyperCommand):
    """A command whose help has sections.

    An option opens one where it has a ``rich_help_panel``, and those that follow belong to it.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as click has it
        """Write the options, section by section, and what asks for help last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        name = "Arguments"
        for parameter in self.get_params(ctx):
            name = getattr(parameter, "rich_help_panel", None) or name
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(name, []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)
