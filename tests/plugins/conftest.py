"""What the tests of plugins share: photos, and ``mrnn`` in this process."""

from dataclasses import dataclass

import pytest
from PIL import Image

from mrnn_runtime.cli import main


@pytest.fixture
def photos(tmp_path):
    """A folder with three different images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "green"), ("b.jpg", "red"), ("c.png", "blue")):
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
def mrnn(capsys):
    """Run ``mrnn`` in this process."""

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        return Result(caught.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def caption(mrnn, tiny_bundle):
    """Run ``mrnn caption`` with the tiny bundle on the CPU."""
    options = ("--model", tiny_bundle, "--provider", "cpu", "--threads", 1)
    return lambda *args: mrnn("caption", *args, *options)
