"""What ``pip`` means in the docs under test: nothing is downloaded.

``pip install -e DIR`` makes a package importable and its plugins visible, as pip would; the name of
any other package must be that of one that the docs may speak of. Usage: pip_stand_in.py SITE ARGS.
"""

import sys
import tomllib
from pathlib import Path

KNOWN = {"onnxruntime", "onnxruntime-gpu"}
ROOT = Path(__file__).parents[2]


def main(site: Path, command: str, *args: str) -> None:
    assert command in ("install", "uninstall", "download"), f"pip {command}?"
    ours = [path for depth in ("", "*/", "*/*/") for path in ROOT.glob(f"{depth}pyproject.toml")]
    projects = {project["name"]: project for project in map(project_of, ours)}
    names = [arg for arg in args if not arg.startswith("-")]
    assert names, "nothing to install"
    for name in names:
        name, _, extra = name.rstrip("]").partition("[")
        if "-e" in args:
            install(site, Path(name).resolve(), extra)
        elif name in projects:
            extras = projects[name].get("optional-dependencies", {})
            assert not extra or extra in extras, f"{name} has no extra {extra}"
        else:
            assert name in KNOWN, f"{name}: no package of ours"


def project_of(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


def install(site: Path, folder: Path, extra: str) -> None:
    project = project_of(folder / "pyproject.toml")
    assert not extra or extra in project["optional-dependencies"]
    name = project["name"].replace("-", "_")
    info = site / f"{name}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    facts = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(facts, encoding="utf-8")
    points = [f"{key} = {value}" for key, value in project["entry-points"]["mrnn"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[mrnn]", *points]) + "\n", encoding="utf-8")
    (site / name).symlink_to(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
