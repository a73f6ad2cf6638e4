"""Options that a file gives: the user's ``~/.config/mrnn/mrnn.toml``, or that of ``MRNN_CONFIG``.

No file is looked for where one merely stands: it may have come with the photos, and options write
files, listen to a network and load models.

A table a command, with the names that the options have on the command line, which wins::

    [caption]
    model = "everyday"
    beam-size = 10
    ban = ["man", "woman"]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST_BYTES = 1 << 20


def read_config() -> dict[str, Any]:
    """Return what the file says, a table a command; an empty ``MRNN_CONFIG`` means no file.

    Raises:
        UsageError: it is not there though it was named, or it is no TOML.
    """
    path = _path()
    if path is None:
        return {}
    import tomllib

    try:
        with path.open("rb") as file:
            return tomllib.loads(file.read(_MOST_BYTES).decode())
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="see the variable MRNN_CONFIG"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error


def _path() -> Path | None:
    named = os.environ.get("MRNN_CONFIG")
    if named is not None:
        return Path(named) if named else None
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    own = Path(folder, "mrnn", "mrnn.toml")
    # Path.is_file of Python 3.11 raises where the folder may not be looked at.
    return own if own.is_absolute() and os.path.isfile(own) else None


def defaults(group: TyperGroup, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a group's commands, as click takes them.

    Raises:
        UsageError: a table names a command or an option that does not exist.
    """
    made: dict[str, Any] = {}
    for name, table in tables.items():
        command = group.commands.get(name)
        if command is None:
            raise _unknown(f"there is no command {name!r}", name, group.commands)
        if not isinstance(table, dict):
            raise UsageError(f"the configuration needs a table [{name}]")
        if isinstance(command, TyperGroup):
            made[name] = defaults(command, table)
            continue
        options = {
            opt.removeprefix("--"): parameter
            for parameter in command.params
            for opt in parameter.opts
            if opt.startswith("--")
        }
        for key in table:
            if key not in options:
                raise _unknown(f"mrnn {name} has no option --{key}", key, options)
        made[name] = {options[key].name: value for key, value in table.items()}
    return made


def _unknown(message: str, name: str, known: Iterable[str]) -> UsageError:
    from difflib import get_close_matches  # it takes a few milliseconds to import

    close = get_close_matches(name.replace("_", "-"), list(known), n=1)
    advice = f"did you mean {close[0]}?" if close else "see mrnn --help"
    return UsageError(f"{_path()}: {message}", hint=advice)
