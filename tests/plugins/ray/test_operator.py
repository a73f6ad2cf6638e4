"""The work of an actor of ``caption_dataset``, without a cluster."""

from pathlib import Path

import pytest

pytest.importorskip("ray", reason="mrnn-ray is not installed")

import pyarrow as pa

from mrnn_ray.operator import CaptionRows
from mrnn_ray.recipe import Recipe
from mrnn_runtime import UsageError


@pytest.fixture(scope="module")
def work(tiny_bundle: Path) -> CaptionRows:
    return CaptionRows(
        recipe=Recipe(model=str(tiny_bundle), provider="cpu", vectors=True),
        column="bytes",
        name="path",
    )


@pytest.mark.parametrize("column", ["caption", "error", "reference_feature"])
def test_no_column_of_the_dataset_is_replaced(work: CaptionRows, photos: Path, column: str) -> None:
    photo = (photos / "more" / "01.png").read_bytes()
    rows = pa.table({"path": ["a"], "bytes": [photo], column: ["what a person wrote"]})
    with pytest.raises(UsageError, match=column):
        work(rows)
    captioned = work(rows.rename_columns(["path", "bytes", "mine"])).to_pylist()
    assert [(row["path"], row["mine"]) for row in captioned] == [("a", "what a person wrote")]
    assert captioned[0]["caption"]


def test_a_dataset_without_the_column_is_refused(work: CaptionRows) -> None:
    with pytest.raises(UsageError, match="bytes"):
        work(pa.table({"image": [b"no picture"]}))
