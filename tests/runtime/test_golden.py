"""Golden vectors: an intact model reproduces them, anything else is noticed."""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from mrnn_runtime.bundle.loading import load_bundle, write_manifest
from mrnn_runtime.engine.golden import GOLDEN, replay_golden
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.errors import BundleError

NPY = (
    b"\x93NUMPY\1\0v\0"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}".ljust(118)
    + b"x"
)


def arrays_of(folder):
    with np.load(folder / GOLDEN) as archive:
        return dict(archive)


def replay(folder):
    bundle = load_bundle(folder)
    return replay_golden(bundle, *load_model(bundle, "cpu", threads=1))


def test_an_archive_of_very_many_members(tiny_copy):
    """Each costs a hundred bytes of the file, a kilobyte of memory, and its share of minutes."""
    with zipfile.ZipFile(tiny_copy / GOLDEN, "w") as archive:
        for number in range(2000):
            archive.writestr(str(number), b"")
    write_checksums(tiny_copy)
    with pytest.raises(BundleError, match="it holds too many arrays"):
        replay(tiny_copy)


def write_checksums(folder):
    write_manifest(folder, json.loads((folder / "bundle.json").read_text()))


def record(folder, **changes):
    """Write the golden file with other arrays, None for none, and the checksums."""
    arrays = {**arrays_of(folder), **changes}
    np.savez(folder / GOLDEN, **{k: v for k, v in arrays.items() if v is not None})
    write_checksums(folder)


@pytest.mark.parametrize("memory", [False, True])
def test_a_model_reproduces_itself(make_tiny_bundle, memory):
    report = replay(make_tiny_bundle(memory=memory))
    names = {"encoder/image_term", "encoder/reference_feature", "log_probs"}
    assert report.differences.keys() == (names | {"encoder/first_memory"} if memory else names)
    assert set(report.differences.values()) == {0.0}
    assert report.ok


@pytest.mark.parametrize("name", ["encoder/image_term", "encoder/reference_feature", "log_probs"])
@pytest.mark.parametrize(("change", "ok"), [(5e-5, True), (1e-3, False), (np.nan, False)])
def test_a_difference_is_measured(tiny_copy, name, change, ok):
    array = arrays_of(tiny_copy)[name]
    array.flat[-1] += np.float32(change)
    record(tiny_copy, **{name: array})
    report = replay(tiny_copy)
    assert report.ok is ok
    assert [key for key, difference in report.differences.items() if difference != 0] == [name]


def test_the_features_are_compared_by_their_size(tiny_copy):
    array = arrays_of(tiny_copy)["encoder/image_term"]
    array.flat[0] += 1000
    record(tiny_copy, **{"encoder/image_term": array})
    assert 0.99 < replay(tiny_copy).differences["encoder/image_term"] < 1.01


def test_other_weights_are_noticed(make_tiny_bundle):
    folder, other = make_tiny_bundle(), make_tiny_bundle(seed=1)
    record(folder, **arrays_of(other))
    assert not replay(folder).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"image": None},
        {"token": None},
        {"log_probs": None},
        {"encoder/image_term": None},
        {"image": np.zeros((2, 8, 8, 3), np.uint8)},
        {"token": np.full((4, 2), 12)},
        {"token": np.full((4, 3), 1)},
        {"log_probs": np.zeros((4, 2, 13), np.float32)},
        {"log_probs": np.full((4, 2, 12), "x")},
        {"token": np.ones(2**22, np.int64)},
        {"image": np.array([{}, {}], object)},
    ],
    ids=str,
)
def test_vectors_that_are_not_of_this_model(tiny_copy, changes):
    record(tiny_copy, **changes)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be replayed"):
        replay(tiny_copy)


def test_a_few_bytes_that_unpack_to_many(tiny_copy):
    np.savez_compressed(tiny_copy / GOLDEN, **arrays_of(tiny_copy), more=np.zeros(2**26, np.uint8))
    write_checksums(tiny_copy)
    with pytest.raises(
        BundleError, match=r"golden\.npz cannot be replayed: it holds more than 64 MB"
    ):
        replay(tiny_copy)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 broken", b"text", NPY])
def test_a_file_that_is_no_archive(tiny_copy, content):
    (tiny_copy / GOLDEN).write_bytes(content)
    write_checksums(tiny_copy)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be replayed"):
        replay(tiny_copy)


def test_a_bundle_without_them(tiny_copy):
    (tiny_copy / GOLDEN).unlink()
    write_checksums(tiny_copy)
    with pytest.raises(BundleError, match=r"holds no golden\.npz"):
        replay(tiny_copy)


@pytest.mark.parametrize(
    ("precision", "provider", "change", "ok"),
    [
        ("int8", "CPUExecutionProvider", 0.1, True),
        ("int8", "CPUExecutionProvider", 0.5, False),
        ("fp32", "CPUExecutionProvider", 1e-3, False),
        ("fp32", "CUDAExecutionProvider", 1e-3, True),
        ("fp32", "CUDAExecutionProvider", 0.1, False),
        ("something new", "CPUExecutionProvider", 0.1, True),
    ],
)
def test_what_is_allowed_depends_on_the_precision_and_the_provider(
    tiny_copy, precision, provider, change, ok
):
    array = arrays_of(tiny_copy)["log_probs"]
    array.flat[-1] += np.float32(change)
    record(tiny_copy, log_probs=array)
    manifest = json.loads((tiny_copy / "bundle.json").read_text())
    write_manifest(tiny_copy, manifest | {"precision": precision})
    bundle = load_bundle(tiny_copy)
    encoder, model = load_model(bundle, "cpu", threads=1)
    elsewhere = SimpleNamespace(encode=encoder.encode, provider=provider)
    assert replay_golden(bundle, elsewhere, model).ok is ok
