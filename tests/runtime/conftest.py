import importlib
import os
import re
import sys
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

import pytest
from PIL import Image

from mrnn_runtime.cli import main


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


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def mrnn(capsys, only_builtins):
    """Run ``mrnn`` in this process."""

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        wanted = "--traceback" in args or os.environ.get("MRNN_STRICT_PLUGINS")
        assert wanted or "Traceback" not in err
        return Result(caught.value.code or 0, out, err)

    return run


@pytest.fixture
def caption(mrnn, tiny_bundle):
    """Run ``mrnn caption`` with the tiny bundle on the CPU; the rate on stderr becomes N."""

    def run(*args):
        options = ("--model", tiny_bundle, "--provider", "cpu", "--threads", 1)
        result = mrnn("caption", *args, *options)
        return replace(result, err=re.sub(r"[\d.]+ images/s", "N images/s", result.err))

    return run
