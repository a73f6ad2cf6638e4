"""Prepared graphs: the same numbers, made only of what was checked, and never in a start's way."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mrnn_runtime.engine import prepared, sessions
from mrnn_runtime.engine.sessions import make_session
from mrnn_runtime.errors import BundleError

IMAGES = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
OUTPUTS = ["image_term", "reference_feature", "first_memory"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "mrnn" / "graphs"


def start(path, **options):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options = {"files": ["cell.onnx.data"], "digest": digest} | options
    return make_session(path, "cpu", 1, **options)


def outputs(session):
    return [array.tobytes() for array in session.run(OUTPUTS, {"image": IMAGES})]


@pytest.fixture
def checked(monkeypatch):
    """Count the graphs that are checked, and so prepared anew."""
    graphs = []
    check = sessions.checked_graph

    def counted(path, *given, **options):
        graphs.append(path)
        return check(path, *given, **options)

    monkeypatch.setattr(sessions, "checked_graph", counted)
    return graphs


def test_the_second_start_takes_what_the_first_has_made(tiny_bundle, folder, checked):
    path = tiny_bundle / "encoder.onnx"
    plain = outputs(make_session(path, "cpu", 1))
    checked.clear()
    assert outputs(start(path)) == outputs(start(path)) == plain
    assert len(checked) == 1
    (kept,) = folder.iterdir()
    assert kept.name.endswith(f"-{hashlib.sha256(kept.read_bytes()).hexdigest()}.onnx")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_one_changed_byte_and_it_is_made_again(tiny_bundle, folder, checked):
    first = outputs(start(tiny_bundle / "encoder.onnx"))
    (kept,) = folder.iterdir()
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert outputs(start(tiny_bundle / "encoder.onnx")) == first
    assert len(checked) == 2
    assert outputs(start(tiny_bundle / "encoder.onnx")) == first
    assert len(checked) == 2


def test_a_prepared_graph_that_does_not_load_is_made_again(tiny_bundle, folder, checked):
    first = outputs(start(tiny_bundle / "encoder.onnx"))
    (kept,) = folder.iterdir()
    kept.unlink()
    stem = kept.name.partition("-")[0]
    (folder / f"{stem}-{hashlib.sha256(b'x').hexdigest()}.onnx").write_bytes(b"x")
    assert outputs(start(tiny_bundle / "encoder.onnx")) == first
    assert len(checked) == 2


def test_a_folder_that_others_may_write_to_is_not_used(tiny_bundle, folder, checked):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    for _ in range(2):
        start(tiny_bundle / "encoder.onnx")
    assert len(checked) == 2
    assert not list(folder.iterdir())


def test_no_cache_where_none_can_be(tiny_bundle, folder, checked):
    folder.parent.parent.write_text("a file in its place")
    assert outputs(start(tiny_bundle / "encoder.onnx"))
    assert len(checked) == 1


def test_what_depends_on_other_files_is_not_kept(tiny_bundle, folder):
    start(tiny_bundle / "cell.onnx")
    assert not list(folder.iterdir())


def test_a_file_that_changed_after_it_was_checked_is_not_kept(tiny_bundle, folder):
    start(tiny_bundle / "encoder.onnx", digest="0" * 64)
    assert not list(folder.iterdir())


def test_a_limit_of_memory_holds_for_prepared_graphs_too(tiny_bundle, folder, monkeypatch):
    start(tiny_bundle / "encoder.onnx")
    monkeypatch.setattr(sessions, "memory_limit", partial(int, 10))
    with pytest.raises(BundleError, match="for its weights alone"):
        start(tiny_bundle / "encoder.onnx")


def test_a_graph_that_is_refused_leaves_no_file(tiny_copy, folder):
    (tiny_copy / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError):
        start(tiny_copy / "encoder.onnx")
    assert not list(folder.iterdir())


def test_the_newest_few_are_kept(folder, monkeypatch):
    monkeypatch.setattr(prepared, "_MOST", 2)
    for number in range(4):
        place = prepared.place_of("graph", number)
        content = str(number).encode()
        prepared.keep(place, lambda file, content=content: Path(file).write_bytes(content))
    assert len(list(folder.iterdir())) == 2
    assert prepared.kept(place) == b"3"
