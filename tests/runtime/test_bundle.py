"""A bundle loads whole or not at all: whatever is wrong with it is a BundleError that says what."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.errors import BundleError
from mrnn_runtime.types import DecodeOptions, Preprocess, SpecialTokens

FILES = (
    "MODEL_CARD.md",
    "bundle.json",
    "cell.onnx",
    "cell.onnx.data",
    "encoder.onnx",
    "golden.npz",
    "tokenizer.json",
)
AWAY = object()


def read(folder):
    return json.loads((folder / "bundle.json").read_bytes())


def with_checksum(manifest):
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, "manifest_sha256": hashlib.sha256(text.encode()).hexdigest()}


def replace(manifest, place, value):
    """Put a value in place of the one at ("cell", "inputs", 0); AWAY takes it away."""
    *parents, last = place
    for key in parents:
        manifest = manifest[key]
    if value is AWAY:
        del manifest[last]
    else:
        manifest[last] = value


def places(value, place=()):
    """Every place in a JSON value but its root."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*place, key)
            yield from places(inner, (*place, key))


def write_checked(folder, manifest):
    (folder / "bundle.json").write_text(json.dumps(with_checksum(manifest)))


def refused(folder):
    """Check that the bundle does not load, and return the complaint."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert caught.value.hint
    return str(caught.value)


def test_a_bundle_says_what_it_is(tiny_bundle):
    bundle = load_bundle(str(tiny_bundle))
    assert (bundle.name, bundle.version, bundle.precision) == ("tiny", "1.0", "fp32")
    assert bundle.preprocess == Preprocess(16, 16, "squash", "bilinear")
    assert bundle.tokens == SpecialTokens(pad=0, bos=1, eos=2, unk=3)
    assert bundle.decode_options == DecodeOptions(beam_size=3, max_length=8)
    assert (bundle.decoder, bundle.reranker) == ("beam", None)
    assert [str(tensor) for tensor in bundle.encoder.inputs] == ["image uint8 [n, 16, 16, 3]"]
    assert sorted(bundle.files) == sorted(set(FILES) - {"bundle.json"})
    assert bundle.file("cell.onnx").read_bytes()


def test_only_listed_files_are_given_out(tiny_bundle):
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        load_bundle(tiny_bundle).file("bundle.json")


def test_a_link_to_a_bundle_is_a_bundle(tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(tiny_bundle)
    assert load_bundle(tmp_path / "link") == load_bundle(tiny_bundle)


def test_the_layout_of_the_manifest_does_not_matter(tiny_copy):
    before = load_bundle(tiny_copy)
    turned = dict(reversed(read(tiny_copy).items()))
    (tiny_copy / "bundle.json").write_text(json.dumps(turned, indent=8))
    assert load_bundle(tiny_copy) == before


def test_hidden_files_are_no_part_of_a_bundle(tiny_copy):
    (tiny_copy / ".DS_Store").write_text("x")
    (tiny_copy / ".git").mkdir()
    (tiny_copy / ".git" / "HEAD").write_text("x")
    load_bundle(tiny_copy)


def test_what_is_no_bundle(tmp_path):
    assert "no bundle" in refused(tmp_path / "missing")
    assert "no bundle" in refused(tmp_path)
    (tmp_path / "file").write_text("")
    assert "no bundle" in refused(tmp_path / "file")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(tiny_copy, name):
    (tiny_copy / name).unlink()
    assert name in refused(tiny_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short(tiny_copy, name):
    content = (tiny_copy / name).read_bytes()
    (tiny_copy / name).write_bytes(content[:-2])
    assert name in refused(tiny_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_became_a_folder_or_a_pipe(tiny_copy, name):
    (tiny_copy / name).unlink()
    (tiny_copy / name).mkdir()
    assert name in refused(tiny_copy)
    (tiny_copy / name).rmdir()
    os.mkfifo(tiny_copy / name)
    assert name in refused(tiny_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_link_may_not_leave_the_folder(tiny_copy, tmp_path, name):
    (tiny_copy / name).rename(tmp_path / name)
    (tiny_copy / name).symlink_to(tmp_path / name)
    assert "outside the folder" in refused(tiny_copy)
    (tiny_copy / name).unlink()
    (tiny_copy / name).symlink_to(name)
    assert name in refused(tiny_copy)


def test_a_linked_folder_may_not_leave_the_folder(tiny_copy, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.txt").write_text("x")
    (tiny_copy / "more").symlink_to(outside)
    assert "more" in refused(tiny_copy)
    manifest = read(tiny_copy)
    manifest["files"]["more/x.txt"] = {
        "sha256": hashlib.sha256(b"x").hexdigest(),
        "bytes": 1,
    }
    write_checked(tiny_copy, manifest)
    assert "more" in refused(tiny_copy)


def test_a_file_that_is_not_listed(tiny_copy):
    (tiny_copy / "more").mkdir()
    (tiny_copy / "more" / "extra.npy").write_bytes(b"x")
    assert "more/extra.npy" in refused(tiny_copy)


def test_of_the_folders_of_references_the_one_that_is_not_named_is_ignored(tiny_copy):
    manifest = read_manifest(tiny_copy)
    for name in ("references", "references-2"):
        (tiny_copy / name).mkdir()
        (tiny_copy / name / "x.npy").write_bytes(b"x")
    assert load_bundle(tiny_copy).references is None
    for name in ("references-2", "references"):
        write_manifest(tiny_copy, {**manifest, "references": name})
        bundle = load_bundle(tiny_copy)
        assert bundle.references == name
        assert [file for file in bundle.files if "/" in file] == [f"{name}/x.npy"]
    (tiny_copy / "references" / "y.npy").write_bytes(b"y")
    assert "references/y.npy" in refused(tiny_copy)
    with pytest.raises(BundleError, match="must be one of references, references-2"):
        write_manifest(tiny_copy, {**manifest, "references": "elsewhere"})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"bundle"',
        b"\xff\xfe\x00",
        b'{"format": NaN}',
        b'{"format": 1e999}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda content: content[:20].decode("latin-1"),
)
def test_a_manifest_that_is_no_json_object(tiny_copy, content):
    (tiny_copy / "bundle.json").write_bytes(content)
    assert "bundle.json" in refused(tiny_copy)


def test_a_newer_format_asks_for_an_upgrade(tiny_copy):
    manifest = {"format": 2, "something": "else"}
    (tiny_copy / "bundle.json").write_text(json.dumps(manifest))
    complaint = refused(tiny_copy)
    assert "format 2" in complaint
    assert "pip install --upgrade mrnn-runtime" in complaint


def test_a_manifest_that_was_edited_by_hand(tiny_copy):
    text = (tiny_copy / "bundle.json").read_text()
    (tiny_copy / "bundle.json").write_text(text.replace('"beam_size": 3', '"beam_size": 4'))
    assert "was changed" in refused(tiny_copy)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "a//x", "./x", "C:\\x", "a\\x", "", ".x", "a/.x", "x\0"],
)
def test_a_name_that_leads_out_of_the_folder(tiny_copy, name):
    manifest = read(tiny_copy)
    manifest["files"][name] = manifest["files"]["MODEL_CARD.md"]
    write_checked(tiny_copy, manifest)
    assert "files names" in refused(tiny_copy)
    manifest = read(tiny_copy)
    del manifest["files"][name]
    manifest["cell"]["file"] = name
    write_checked(tiny_copy, manifest)
    assert "bundle.json" in refused(tiny_copy)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("format",), True, "format"),
        (("format",), 0, "format"),
        (("name",), AWAY, "name is missing"),
        (("name",), "", "name"),
        (("summary",), "two\nlines", "summary"),
        (("opset",), 17.0, "opset"),
        (("vocabulary_size",), 13, "log_probs"),
        (("vocabulary_size",), "12", "vocabulary_size"),
        (("tokens", "eos"), 12, "tokens"),
        (("tokens", "eos"), 1, "tokens"),
        (("tokens", "eos"), -1, "tokens.eos"),
        (("preprocess", "height"), 17, "encoder.inputs"),
        (("preprocess", "height"), 0, "preprocess"),
        (("preprocess", "resize"), "stretch", "preprocess"),
        (("preprocess", "reduced"), 1, "preprocess.reduced must be true or false"),
        (("encoder",), None, "encoder"),
        (("encoder", "inputs"), [], "encoder.inputs"),
        (("encoder", "inputs", 0, "dtype"), "float32", "encoder.inputs"),
        (("encoder", "inputs", 0, "dtype"), "object", "encoder.inputs[0].dtype"),
        (("encoder", "inputs", 0, "shape", 0), 1, "encoder.inputs"),
        (("encoder", "outputs", 1), AWAY, "reference_feature"),
        (("encoder", "outputs", 0), AWAY, "image_term"),
        (("encoder", "outputs", 0, "shape", 1), 7, "image_term"),
        (("encoder", "outputs", 0, "shape", 1), "m", "image_term"),
        (("encoder", "outputs", 0, "name"), "reference_feature", "twice"),
        (("cell", "file"), "cell2.onnx", "cell2.onnx"),
        (("cell", "inputs", 0), AWAY, "cell.inputs"),
        (("cell", "inputs", 1, "dtype"), "float16", "image_term"),
        (("cell", "inputs", 2, "shape", 1), 4, "next_state"),
        (("cell", "inputs", 2, "shape"), [], "next_state"),
        (("cell", "inputs", 3, "dtype"), "int32", "cell.inputs"),
        (("cell", "outputs", 0, "shape", 1), 13, "cell.outputs"),
        (("cell", "outputs", 2), AWAY, "best_ids"),
        (("cell", "outputs", 3), AWAY, "next_state"),
        (("image_inputs",), [], "cell.inputs"),
        (("image_inputs",), ["image_term", "image_term"], "image_inputs"),
        (("image_inputs",), ["state"], "image_inputs"),
        (("image_inputs",), "image_term", "image_inputs"),
        (("state",), [], "state"),
        (("state", 0, "output"), "log_probs", "state"),
        (("state", 0, "init"), "ones", "ones"),
        (("state", 0, "init"), "image_term", "image_term"),
        (("decode", "options", "beam_size"), 0, "decode.options"),
        (("decode", "options", "beam_size"), True, "decode.options.beam_size"),
        (("decode", "options", "max_length"), 10**12, "decode.options are refused: max_length"),
        (("preprocess", "width"), 10**6, "lies outside 1..4096"),
        (("decode", "options", "beams"), 3, "decode.options.beams"),
        (("decode", "options", "length_penalty"), "1", "decode.options.length_penalty"),
        (("decode", "options", "banned"), [12], "decode.options.banned"),
        (("decode", "options", "banned"), 4, "decode.options.banned"),
        (("decode", "decoder"), 1, "decode.decoder"),
        (("rerank",), AWAY, "rerank is missing"),
        (("rerank", "reranker"), 1, "rerank.reranker"),
        (("rerank", "options", "mine"), 1, "rerank.options.mine must be an object"),
        (("rerank", "options", "mine"), {"k": 0}, "rerank.options.mine.k must be at least 1"),
        (("rerank", "options", "mine"), {"n": 1}, "rerank.options.mine.n is no option"),
        (("training",), [], "training"),
        (("files", "cell.onnx", "sha256"), "0" * 63, "sha256"),
        (("files", "cell.onnx", "sha256"), "0" * 64, "cell.onnx"),
        (("files", "cell.onnx", "bytes"), 1, "cell.onnx"),
        (("files", "cell.onnx", "bytes"), AWAY, "files.cell.onnx.bytes is missing"),
        (("files", "tokenizer.json"), AWAY, "tokenizer.json"),
        (("files", "cell.onnx.data"), AWAY, "cell.onnx.data"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_is_named(tiny_copy, place, value, complaint):
    manifest = read(tiny_copy)
    replace(manifest, place, value)
    write_checked(tiny_copy, manifest)
    assert complaint in refused(tiny_copy)


def test_a_state_that_is_handed_on_twice(tiny_copy):
    manifest = read(tiny_copy)
    manifest["state"] *= 2
    write_checked(tiny_copy, manifest)
    assert "cell.inputs" in refused(tiny_copy)


@pytest.fixture(scope="module")
def scratch(tiny_bundle, tmp_path_factory):
    """A copy that a property may damage, if it restores it."""
    return shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("scratch") / "bundle")


@pytest.mark.slow
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_one_changed_byte_anywhere_is_noticed(scratch, name, where, mask):
    path = scratch / name
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(where * len(content))] ^= mask
    before = load_bundle(scratch)
    path.write_bytes(changed)
    try:
        # White space in bundle.json is the one thing that may change.
        assert load_bundle(scratch) == before
        assert name == "bundle.json"
    except BundleError:
        pass
    finally:
        path.write_bytes(content)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_field_may_hold_anything(tiny_bundle, scratch, data):
    manifest = read(tiny_bundle)
    place = data.draw(st.sampled_from(list(places(manifest))))
    replace(manifest, place, data.draw(JSON_VALUES | st.just(AWAY)))
    write_checked(scratch, manifest)
    try:
        load_bundle(scratch)
    except BundleError:
        pass
    finally:
        shutil.copy(tiny_bundle / "bundle.json", scratch)


class TestWriteManifest:
    def test_what_is_written_loads(self, tiny_copy):
        before = load_bundle(tiny_copy)
        write_manifest(tiny_copy, {**read(tiny_copy), "image_inputs": ("image_term",)})
        assert load_bundle(tiny_copy) == before
        assert not list(tiny_copy.glob(".*"))

    def test_files_are_hashed_anew(self, tiny_copy):
        (tiny_copy / "references").mkdir()
        (tiny_copy / "references" / "captions.bin").write_bytes(b"x")
        (tiny_copy / "MODEL_CARD.md").write_text("# another\n")
        write_manifest(tiny_copy, read(tiny_copy))
        fact = load_bundle(tiny_copy).files["references/captions.bin"]
        assert (fact.sha256, fact.bytes) == (hashlib.sha256(b"x").hexdigest(), 1)

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"vocabulary_size": 13}, "log_probs"),
            ({"training": {"perplexity": float("nan")}}, "JSON"),
            ({"training": {"data": object()}}, "JSON"),
        ],
    )
    def test_a_wrong_manifest_leaves_the_old_one(self, tiny_copy, changes, complaint):
        before = load_bundle(tiny_copy)
        with pytest.raises(BundleError, match=complaint):
            write_manifest(tiny_copy, {**read(tiny_copy), **changes})
        assert load_bundle(tiny_copy) == before

    def test_files_that_no_bundle_can_hold(self, tiny_copy, tmp_path):
        manifest = read(tiny_copy)
        (tiny_copy / "two words.txt").write_text("")
        with pytest.raises(BundleError, match="two words"):
            write_manifest(tiny_copy, manifest)
        (tiny_copy / "two words.txt").rename(tmp_path / "outside.txt")
        (tiny_copy / "link.txt").symlink_to(tmp_path / "outside.txt")
        with pytest.raises(BundleError, match="outside the folder"):
            write_manifest(tiny_copy, manifest)


def test_a_recipe_that_reads_jpegs_reduced(tiny_copy):
    manifest = read_manifest(tiny_copy)
    assert "reduced" not in manifest["preprocess"], "as bundles from before have it"
    assert not load_bundle(tiny_copy).preprocess.reduced
    manifest["preprocess"]["reduced"] = True
    write_manifest(tiny_copy, manifest)
    assert load_bundle(tiny_copy).preprocess.reduced


def test_every_option_of_decoding_can_be_a_default(tiny_copy):
    manifest = read_manifest(tiny_copy)
    manifest["decode"]["options"] = asdict(DecodeOptions(exact=True))
    write_manifest(tiny_copy, manifest)
    assert load_bundle(tiny_copy).decode_options == DecodeOptions(exact=True)
