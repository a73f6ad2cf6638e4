"""The Dockerfiles name what there is; no engine is at hand to build them."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", sorted(ROOT.glob("docker/*.Dockerfile")), ids=lambda p: p.name)
def test_a_dockerfile_names_what_there_is(file):
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY [^-].*$", text, re.MULTILINE)]
    for source in (name for names in copied for name in names):
        assert (ROOT / source).exists(), source
    (install,) = re.findall(r"pip install (.*)", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extra,) = re.findall(r'"\.\[(\w+)\]"', install)
    assert extra in project["optional-dependencies"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"}
    assert needed <= {name for names in copied for name in names}
    assert re.search(r'^ENTRYPOINT \["mrnn"\]$', text, re.MULTILINE)
    assert file.name in text, "its own name stands in the command that builds it"
