"""References as a folder: the round trip, what it does not hold, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from mrnn_runtime.build import build_references
from mrnn_runtime.bundle.checksums import CheckedFolder, unfilled
from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.bundle.vocabulary import Vocabulary
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.reranking.references import _arrays, load_references, save_references

CAPTIONS = {
    "a.jpg": ("A man runs on grass.", "A dog's hat", "..."),
    "b.jpg": ("A zebra runs on a zebra",),
    "c.jpg": ("!",),
    "d.jpg": ("A man, a hat, a dog, a man", "ZEBRA"),
}


@pytest.fixture
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


def build(bundle, captions=CAPTIONS, **options):
    vocabulary = Vocabulary.load(bundle.file("tokenizer.json"))
    ids = iter(vocabulary.encode_all([text for said in captions.values() for text in said]))
    nested = [[next(ids) for _ in said] for said in captions.values()]
    features = np.random.default_rng(0).standard_normal((len(captions), 8)).astype(np.float32)
    return build_references(list(captions), features, nested, vocabulary.size, **options)


@pytest.fixture
def folder(bundle, tmp_path):
    save_references(build(bundle), tmp_path / "references", bundle, source="a test")
    return tmp_path / "references"


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_what_was_saved_is_what_is_loaded(bundle, tmp_path, dtype):
    built = build(bundle, dtype=dtype)
    save_references(built, tmp_path / "new" / "references", bundle, source="a test")
    loaded = load_references(bundle, tmp_path / "new" / "references")
    assert loaded.images == built.images == ("a.jpg", "b.jpg", "d.jpg")
    assert loaded.frequencies.images == 3
    for name, array in _arrays(built).items():
        reloaded = _arrays(loaded)[name]
        assert isinstance(reloaded, np.memmap)
        assert reloaded.dtype == array.dtype
        np.testing.assert_array_equal(reloaded, array)


def test_captions_without_words_are_left_out_and_the_others_counted(bundle):
    built = build(bundle)
    assert np.diff(built.first_caption.astype(int)).tolist() == [2, 1, 2]
    assert built.lengths.tolist() == [5, 4, 6, 8, 1]
    captions = built.captions_of(np.array([2, 0, 2]))
    assert captions.lengths.tolist() == [8, 1, 5, 4, 8, 1]
    assert set(captions.owner.tolist()) == {0, 2, 3, 4}, "nothing is known of the word zebra"


def test_there_is_nothing_to_read_unless_it_is_asked_for(bundle, folder, tmp_path):
    texts = b"".join(path.read_bytes() for path in folder.iterdir())
    for word in (b"zebra", b"grass", b"runs"):
        assert word not in texts.lower()
    kept = tmp_path / "kept"
    save_references(build(bundle), kept, bundle, source="a test", captions=CAPTIONS)
    records = [json.loads(line) for line in (kept / "captions.jsonl").read_text().splitlines()]
    assert {record["file"]: tuple(record["captions"]) for record in records} == CAPTIONS
    assert load_references(bundle, kept).images == ("a.jpg", "b.jpg", "d.jpg")


def test_every_changed_byte_is_noticed(bundle, folder):
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        for place in (len(original) // 2, len(original) - 2):
            changed = bytearray(original)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(BundleError):
                load_references(bundle, folder)
        path.write_bytes(original[:-3])
        with pytest.raises(BundleError):
            load_references(bundle, folder)
        path.write_bytes(original)
    load_references(bundle, folder)


def test_missing_and_surplus_files(bundle, folder, tmp_path):
    (folder / "more.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"more\.npy"):
        load_references(bundle, folder)
    (folder / "more.npy").unlink()
    (folder / "ngrams.npy").unlink()
    with pytest.raises(BundleError, match=r"ngrams\.npy is missing"):
        load_references(bundle, folder)
    with pytest.raises(BundleError, match="holds no references") as caught:
        load_references(bundle, tmp_path)
    assert "mrnn index build" in caught.value.hint


def test_a_bundle_without_references_says_what_to_do(bundle):
    with pytest.raises(BundleError, match=r"'tiny'.* has no references") as caught:
        load_references(bundle)
    assert "--references" in caught.value.hint


def test_references_of_the_bundle_itself(tiny_copy, folder):
    shutil.copytree(folder, tiny_copy / "references")
    write_manifest(tiny_copy, read_manifest(tiny_copy))
    assert load_references(load_bundle(tiny_copy)).images == ("a.jpg", "b.jpg", "d.jpg")
    path = tiny_copy / "references" / "norms.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x99")
    with pytest.raises(BundleError, match=r"norms\.npy was changed"):
        load_bundle(tiny_copy)


def rewrite(folder, change):
    checked = CheckedFolder(folder, "references.json", 1, "")
    values = unfilled(checked.read())
    change(values)
    checked.write(values, lambda top: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["feature"].update(size=9), "feature.size is 9, .* has 8"),
        (lambda v: v["feature"].update(name="other"), "has no numbers"),
        (lambda v: v["feature"].update(dtype="int4"), "dtype must be one of"),
        (lambda v: v["vocabulary"].update(sha256="0" * 64), "vocabulary is not that of"),
        (lambda v: v["vocabulary"].update(size=13), "vocabulary is not that of"),
        (lambda v: v.update(captions=0), "captions is 0"),
        (lambda v: v.update(images=0), "captions is 0"),
        (lambda v: v.update(images=4), "do not fit together: features, steps"),
        (lambda v: v.update(captions=4), "do not fit together: .*lengths"),
        (lambda v: v.pop("source"), "source is missing"),
    ],
)
def test_references_of_another_model_are_refused(bundle, folder, change, message):
    rewrite(folder, change)
    with pytest.raises(BundleError, match=message) as caught:
        load_references(bundle, folder)
    assert "mrnn index build" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("features", np.zeros((3, 8), np.float32)),
        ("steps", np.zeros(3)),
        ("ngrams", np.zeros(5, np.uint64)),
        ("ngrams", np.zeros((2, 2), np.uint64)),
        ("ngrams", np.uint64(1)),
        ("first_caption", np.array([0, 1, 2, 9], np.uint8)),
        ("first_caption", np.array([1, 1, 2, 5], np.uint8)),
        ("first_caption", np.array([0, 2**60, 2, 5], np.uint64)),
        ("first_caption", np.uint8(5)),
        ("lengths", np.full(5, 2**31, np.uint32)),
        ("lengths", np.zeros(5, np.int64)),
        ("frequencies", np.zeros(1, np.uint8)),
        ("norms", np.array([{}], object)),
        ("steps", np.full(3, np.nan, np.float32)),
        ("steps", np.full(3, 1e30, np.float32)),
        ("steps", np.full(3, -1, np.float32)),
        ("squares", np.full(3, np.nan, np.float32)),
        ("squares", np.full(3, np.inf, np.float32)),
        ("norms", np.full((5, 4), np.nan, np.float32)),
        ("first_caption", np.array([0, 0, 2, 5], np.uint8)),
        ("lengths", np.zeros(5, np.uint8)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(bundle, folder, name, array):
    np.save(folder / f"{name}.npy", array)
    rewrite(folder, lambda values: None)
    with pytest.raises(BundleError):
        load_references(bundle, folder)


@pytest.mark.parametrize("name", ["frequencies", "frequent_ngrams"])
def test_frequencies_that_cannot_be_are_refused(bundle, folder, name):
    size = np.load(folder / f"{name}.npy")
    for lie in (np.zeros_like(size), np.full_like(size, 200)):
        np.save(folder / f"{name}.npy", lie)
        rewrite(folder, lambda values: None)
        with pytest.raises(BundleError, match=name):
            load_references(bundle, folder)


def test_half_features_that_are_not_finite_are_refused(bundle, tmp_path):
    folder = tmp_path / "half"
    save_references(build(bundle, dtype="float16"), folder, bundle, source="a test")
    array = np.load(folder / "features.npy")
    array[1, 2] = np.inf
    np.save(folder / "features.npy", array)
    rewrite(folder, lambda values: None)
    with pytest.raises(BundleError, match="features"):
        load_references(bundle, folder)


@pytest.mark.parametrize("names", [{"a": 1, "b": 2, "c": 3}, "abc", ["a", "b", "c\x1b[2J"], 7])
def test_names_that_are_no_list_of_lines_are_refused(bundle, folder, names):
    (folder / "images.json").write_text(json.dumps(names))
    rewrite(folder, lambda values: None)
    with pytest.raises(BundleError):
        load_references(bundle, folder)


def test_another_encoder_file_is_a_warning(bundle, folder, caplog):
    load_references(bundle, folder)
    assert not caplog.records
    rewrite(folder, lambda v: v["model"].update(encoder_sha256="0" * 64))
    load_references(bundle, folder)
    assert "another encoder" in caplog.text


def test_a_folder_that_is_not_empty_is_never_written_to(bundle, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match="not empty"):
        save_references(build(bundle), tmp_path, bundle, source="a test")
    with pytest.raises(BundleError, match="cannot be written"):
        save_references(build(bundle), tmp_path / "file", bundle, source="a test")


def test_nothing_to_build_of(bundle):
    with pytest.raises(UsageError, match="no caption with a word"):
        build(bundle, {"a.jpg": ("...",)})
