"""Everything that we ship keeps the contracts that we ask of others."""

import importlib
from functools import partial
from pathlib import Path

import pytest

from mrnn_runtime.errors import PluginError
from mrnn_runtime.plugins import builtins
from mrnn_runtime.plugins.manager import KINDS
from mrnn_runtime.testing import Check, checks_for, plugin_checks

ROOT = Path(__file__).parents[2]
# mrnn-photos has no hook: options of mrnn caption import it by name.
PLUGINS = [
    "mrnn_exporters.plugin",
    *sorted({path.name for path in ROOT.glob("plugins/*/mrnn_*")} - {"mrnn_photos"}),
]
# All eighty would take minutes; these two are small.
ONLY = {"mrnn_torchvision": ("squeezenet1-1", "mobilenet-v3-small")}


def checks_of(plugin):
    """The checks of a plugin; one that skips where it, or what it needs, is not installed."""
    try:
        return plugin_checks(importlib.import_module(plugin), only=ONLY.get(plugin, ()))
    except (ImportError, PluginError) as error:
        return [Check(f"{plugin}: is installed", partial(pytest.skip, str(error)))]


@pytest.mark.parametrize(
    "package",
    [ROOT / "mrnn_runtime", ROOT / "exporters" / "mrnn_exporters", *ROOT.glob("plugins/*/mrnn_*")],
    ids=lambda path: path.name,
)
def test_type_checkers_see_every_package(package):
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize(
    "check",
    [
        check
        for kind in KINDS
        for component in getattr(builtins, f"mrnn_{kind}", list)()
        for check in checks_for(component, kind)
    ],
    ids=str,
)
def test_builtins(check):
    check.run()


@pytest.mark.parametrize("check", [c for name in PLUGINS for c in checks_of(name)], ids=str)
def test_plugins(check):
    check.run()
