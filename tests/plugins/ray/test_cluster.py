"""Through Ray itself: one cluster of this machine, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mrnn_runtime import load

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ran(tiny_bundle, photos, bucket, tmp_path_factory):
    """The folder and the result of the script."""
    pytest.importorskip("ray", reason="mrnn-ray is not installed")
    from mrnn_ray.parts import open_place

    scratch = tmp_path_factory.mktemp("cluster")
    filesystem, root = open_place(bucket("in"))
    for file in photos.rglob("[!.]*.png"):
        with filesystem.open_output_stream(f"{root}/{file.relative_to(photos)}") as stream:
            stream.write(file.read_bytes())
    words = [photos, tiny_bundle, scratch, bucket("in"), bucket("out")]
    done = subprocess.run(
        [sys.executable, str(HERE / "cluster_script.py"), *map(str, words)],
        timeout=400,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return scratch, json.loads((scratch / "result.json").read_text()), done.stderr


@pytest.fixture(scope="module")
def expected(tiny_bundle, photos):
    captioner = load(tiny_bundle, provider="cpu")
    return {
        record["path"]: record for record in (one.record() for one in captioner.caption(photos))
    }


def test_rows_keep_their_columns_and_get_captions(ran, expected):
    _, result, _ = ran
    assert [row["path"] for row in result["bytes"]] == sorted(expected)
    for row in result["bytes"]:
        record = expected[row["path"]]
        assert row["caption"] == record.get("caption")
        assert row["log_prob"] == record.get("log_prob")
        assert (row["error"] is None) == ("error" not in record)
        assert "bytes" not in row
    assert {row["mine"] for row in result["bytes"]} == set(range(len(expected)))


def test_photos_may_be_paths_and_options_reach_the_search(ran, expected, tiny_bundle, photos):
    _, result, _ = ran
    greedy = load(tiny_bundle, provider="cpu").caption(photos, beam_size=1)
    texts = {one.path: one.text or None for one in greedy}
    assert {row["path"]: row["caption"] for row in result["paths"]} == texts
    assert all(row["place"] == row["path"] for row in result["paths"])


def test_embeddings_are_columns(ran):
    assert ran[1]["vectors"] == 6


def test_the_command_writes_what_mrnn_caption_writes(ran, expected):
    scratch, result, said = ran
    texts = [file.read_text() for file in (scratch / "out").glob("*.jsonl")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert {line["path"]: line for line in lines} == expected
    assert len(lines) == len(expected)
    assert result["codes"] == [1, 0, 2, 2, 0]
    assert "32 captioned" not in said
    assert "30 captioned, 2 failed" in said
    assert "no decoder" in said or "missing" in said


def test_a_bucket_goes_through_ray(ran, expected, bucket, photos):
    from mrnn_ray.parts import open_place

    filesystem, root = open_place(bucket("out"))
    from pyarrow.fs import FileSelector

    captions = {}
    for info in filesystem.get_file_info(FileSelector(root)):
        if info.extension == "jsonl":
            with filesystem.open_input_file(info.path) as file:
                for line in file.read().splitlines():
                    record = json.loads(line)
                    captions[record["path"].removeprefix("s3://bucket/in/")] = record["caption"]
    texts = {
        path.removeprefix(f"{photos}/"): record["caption"]
        for path, record in expected.items()
        if "error" not in record
    }
    assert captions == texts


def test_what_is_killed_is_there_once(tiny_bundle, photos, tmp_path):
    """A small run of the harness; the large one is a command."""
    for i in range(800):  # so many that the run is still going on
        (tmp_path / f"{i:03}.png").write_bytes((photos / "00.png").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    pytest.importorskip("ray", reason="mrnn-ray is not installed")
    place = HERE.parents[1] / "robustness" / "ray_kills.py"
    words = [tmp_path, "--model", tiny_bundle, "--kills", 2, "--part", 4]
    done = subprocess.run(
        [sys.executable, str(place), *map(str, words)],
        timeout=400,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
