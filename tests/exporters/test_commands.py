"""How a command line names data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrnn_exporters.commands import data_sets
from mrnn_runtime.errors import UsageError


def test_a_data_set_has_its_folder_with_it_or_in_a_root(tmp_path: Path) -> None:
    given = ["flickr8k", f"coco/all:{tmp_path}", "folder"]
    roots = [Path("a"), Path("b")]
    assert data_sets(given, roots) == (
        ("flickr8k", str(Path("a").resolve())),
        ("coco/all", str(tmp_path.resolve())),
        ("folder", str(Path("b").resolve())),
    )


@pytest.mark.parametrize(
    ("given", "roots", "message"),
    [(["coco"], [], "coco has no folder"), (["coco:a"], [Path("b")], "b belongs to no")],
)
def test_what_is_left_over_is_named(given: list[str], roots: list[Path], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        data_sets(given, roots)
