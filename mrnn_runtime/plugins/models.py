"""Models by name: what users type, and the folder of the bundle that it stands for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.errors import UsageError
from mrnn_runtime.plugins.contracts import blaming
from mrnn_runtime.plugins.manager import manager

if TYPE_CHECKING:
    from mrnn_runtime.plugins.manager import PluginManager


def find_model(model: str | Path | None = None, *, plugins: PluginManager | None = None) -> Path:
    """Return the folder of a bundle; see ``mrnn_runtime.load`` for the names.

    A bare word that names an installed model never means the folder of that name: write ``./word``,
    or give a Path.

    Raises:
        UsageError: no model is called that.
        PluginError: two plugins claim the name, or the one that has it fails.
    """
    if isinstance(model, Path):
        return model
    plugins = plugins or manager()
    installed = list(plugins.components("models"))
    name = model or default_model(plugins)
    path = Path(name)
    if path.name != name or (name not in installed and os.path.exists(name)):
        return path  # of what is no folder, loading says so
    try:
        target = plugins.load("models", name)
    except UsageError as error:
        raise _unknown(error, installed, is_named=bool(model)) from None
    with blaming(f"model {name!r}"):
        return Path(target())


def _unknown(error: UsageError, installed: list[str], *, is_named: bool) -> UsageError:
    """Return the error of a name that no model has; the caller may have named none."""
    by = "" if is_named else ", which the variable MRNN_MODEL names"
    if is_named or os.environ.get("MRNN_MODEL"):
        advice = "install one (pip install mrnn-everyday) or name the folder of a bundle"
        return UsageError(error.message + by, hint=f"{error.hint}; {advice}")
    if installed:
        return UsageError(
            "several models are installed, and none is named",
            hint=f"name one with --model, or in MRNN_MODEL: {', '.join(installed)}",
        )
    return UsageError(
        "no model is installed",
        hint="pip install mrnn-everyday, or name the folder of a bundle with --model",
    )


def default_model(plugins: PluginManager | None = None) -> str:
    """Return the model that is meant where none is named: its name, or a folder."""
    installed = list((plugins or manager()).components("models"))
    if len(installed) == 1:
        return installed[0]
    return os.environ.get("MRNN_MODEL") or "everyday"
