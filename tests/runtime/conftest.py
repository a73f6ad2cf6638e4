import importlib
import os
import sys
from importlib.metadata import entry_points

import pytest
from PIL import Image


@pytest.fixture
def only_builtins(tmp_path, monkeypatch):
    """Leave out the plugins of this environment, and give the test a manager of its own."""
    installed = {point.dist.name for point in entry_points(group="mrnn")}
    # The manager is cached by this variable; what is unique to a test gives it one of its own.
    monkeypatch.setenv("MRNN_DISABLE_PLUGINS", ",".join([*installed, str(tmp_path)]))
    monkeypatch.delenv("MRNN_STRICT_PLUGINS", raising=False)
    monkeypatch.delenv("MRNN_MODEL", raising=False)


@pytest.fixture
def install(tmp_path, monkeypatch, only_builtins):
    """Install a distribution with one plugin by hand: a module, METADATA and entry_points.txt.

    ``install("zig", code)`` makes plugin ``zig`` of ``zig-dist`` in ``zig_module``; ``{module}``
    in the code is the module's name.
    """
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules = []

    def install(name, code, *, version="1.0"):
        module = f"{name}_module"
        modules.append(module)
        (site / f"{module}.py").write_text(code.replace("{module}", module))
        info = site / f"{name}_dist-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[mrnn]\n{name} = {module}\n")
        importlib.invalidate_caches()
        disabled = os.environ["MRNN_DISABLE_PLUGINS"]
        monkeypatch.setenv("MRNN_DISABLE_PLUGINS", f"{disabled},since-{name}")

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def photos(tmp_path):
    """A folder with three different images, in the order a.png, b.jpg, sub/c.png."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, colour in (("b.jpg", "red"), ("a.png", "green"), ("sub/c.png", "blue")):
        image = Image.linear_gradient("L").convert("RGB")
        image.paste(colour, (40, 60, 200, 140))
        image.save(folder / name)
    return folder
