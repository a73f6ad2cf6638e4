"""How a command line names data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import get_type_hints

import pytest

from mrnn_exporters import calibrate, references
from mrnn_exporters.commands import data_sets, training
from mrnn_exporters.runs import TrainConfig
from mrnn_runtime.errors import BundleError, UsageError


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


def test_help_names_the_defaults_of_a_training() -> None:
    hints = get_type_hints(training.train, include_extras=True)
    values = asdict(TrainConfig(datasets=()))
    values["view"] = " and ".join(values.pop("views"))
    for option in hints.keys() & values.keys() - {"start", "sentences", "resize"}:
        value = values[option]
        shown = f"{value:g}" if isinstance(value, int | float) else value
        assert f"Else {shown}" in hints[option].__metadata__[0].help, option


def test_an_installed_model_is_not_changed(tmp_path: Path) -> None:
    changes = (
        lambda: calibrate.run(Path("flickr8k"), []),
        lambda: references.add(tmp_path, Path("flickr8k")),
    )
    for change in changes:
        with pytest.raises(BundleError) as error:
            change()
        assert error.value.hint == (
            "name the folder of a bundle; an installed model is not changed"
        )
