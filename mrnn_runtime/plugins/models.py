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
    name = model or default_model(plugins)
    folder = Path(name)
    if folder.name != name or (name not in plugins.components("models") and folder.is_dir()):
        return folder
    try:
        target = plugins.load("models", name)
    except UsageError as error:
        advice = "install one (pip install mrnn-everyday) or name the folder of a bundle"
        raise UsageError(error.message, hint=f"{error.hint}; {advice}") from None
    with blaming(f"model {name!r}"):
        return Path(target())


def default_model(plugins: PluginManager | None = None) -> str:
    """Return the model that is meant where none is named: its name, or a folder."""
    installed = list((plugins or manager()).components("models"))
    if len(installed) == 1:
        return installed[0]
    return os.environ.get("MRNN_MODEL") or "everyday"
