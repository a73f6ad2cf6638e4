"""Write docs/reference/cli.md from the commands themselves: ``python docs/cli.py``.

It holds the commands of mrnn-runtime, mrnn-exporters, mrnn-devtools, mrnn-ray, mrnn-serve and
mrnn-web. A test fails where the page is stale.
"""

from __future__ import annotations

import inspect
import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent / "reference" / "cli.md"
SHOWN = {"mrnn-devtools", "mrnn-exporters", "mrnn-ray", "mrnn-serve", "mrnn-web"}

_HEAD = """\
<!-- Written by docs/cli.py; edit the help texts of the commands instead. -->

# Command line

Results go to stdout, everything else to stderr; [](errors.md) has the exit codes. `train`,
`export`, `evaluate`, `calibrate`, `index`, `quantize` and `flatten` come with `mrnn-exporters`,
`bench` and `plugins new` with `mrnn-devtools`, `serve` with `mrnn-serve`, `ray` with
`mrnn-ray`, `web` with `mrnn-web`. Other plugins may bring further commands; `mrnn --help` lists
what is installed.
"""


def page() -> str:
    """Return the page, whatever other plugins this environment has."""
    from mrnn_runtime.cli import build

    installed = {point.dist.name for point in entry_points(group="mrnn") if point.dist}
    if missing := SHOWN - installed:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    before = os.environ.get("MRNN_DISABLE_PLUGINS", "")
    os.environ["MRNN_DISABLE_PLUGINS"] = ",".join(sorted(installed - SHOWN))
    try:
        group = build()
    finally:
        os.environ["MRNN_DISABLE_PLUGINS"] = before
    root = typer.Context(group, info_name="mrnn", terminal_width=88)
    lines = [_HEAD, *_options(group, root), *_commands(group, root)]
    return "\n".join(lines).rstrip() + "\n"


# Typer carries its own copy of click, whose types are private.
def _commands(group: Any, context: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the lines of every command below a group, depth first."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = type(context)(command, parent=context, info_name=name, terminal_width=88)
        usage = command.get_usage(inner).removeprefix("Usage: ")
        yield from (f"## {inner.command_path}", "", "```text", usage, "```", "")
        yield from (_plain(inspect.cleandoc(command.help or "")), "")
        yield from _options(command, inner)
        if command.epilog:
            examples = inspect.cleandoc(command.epilog.removeprefix("\b"))
            yield from ("```sh", examples, "```", "")
        if hasattr(command, "list_commands"):
            yield from _commands(command, inner)


def _options(command: Any, context: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield what the help says of each argument and option but ``--help``."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and parameter.name != "help":
            spelling, meaning = (part.strip() for part in record)
            if parameter.param_type_name == "argument":
                spelling = spelling.partition(" ")[0]
            yield from (f"`{spelling}`", f": {_plain(meaning)}", "")


def _plain(text: str) -> str:
    """Return Markdown that shows ``text`` as it is."""
    return re.sub(r"([\\`*_<\[])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
