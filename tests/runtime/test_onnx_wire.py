"""What a graph must not have, and that graphs of bundles have none of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.engine.onnx_wire import check_plain
from mrnn_runtime.errors import BundleError

PLAIN = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[n] x) => (float[n] y) { y = Clip (x) }
"""
FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[n] x) => (float[n] y) { y = Neg (x) }
<domain: "own", opset_import: ["": 17]>
twice (a) => (b) { c = Neg (a) b = Neg (c) }
"""
FOREIGN = PLAIN.replace("Clip", "own.Odd")
LOOP = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1] x) => (float[1] y)
{
    times = Constant <value = int64 {9223372036854775807}> ()
    y = Loop (times, , x) <body = b (int64 i, bool go, float[1] a) => (bool on, float[1] c) {
        on = Identity (go)
        c = Neg (a)
    }>
}
"""


def write(path, text):
    import onnx

    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_plain_graphs_pass(tmp_path, tiny_bundle):
    check_plain(write(tmp_path / "x.onnx", PLAIN))
    check_plain(tiny_bundle / "encoder.onnx")
    check_plain(tiny_bundle / "cell.onnx")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FUNCTIONS, "functions of its own"),
        (FOREIGN, "an operator of b'own'"),
        (LOOP, "a graph inside of a node"),
    ],
)
def test_others_do_not(tmp_path, text, complaint):
    with pytest.raises(BundleError, match=f"x.onnx has {complaint}") as caught:
        check_plain(write(tmp_path / "x.onnx", text))
    assert caught.value.hint


def test_a_bundle_is_checked_before_it_is_run(tiny_copy):
    write(tiny_copy / "cell.onnx", LOOP)
    write_manifest(tiny_copy, read_manifest(tiny_copy))
    with pytest.raises(BundleError, match="a graph inside of a node"):
        load_model(load_bundle(tiny_copy), "cpu")


@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_what_is_no_model_is_refused_or_passed_on(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    try:
        check_plain(path)
    except BundleError as error:
        assert "any.onnx" in str(error)


@pytest.mark.parametrize("size", [0, 1, 500, -1])
def test_a_file_that_is_cut(tmp_path, tiny_bundle, size):
    (tmp_path / "x.onnx").write_bytes((tiny_bundle / "cell.onnx").read_bytes()[:size])
    with pytest.raises(BundleError, match="it is no ONNX file"):
        check_plain(tmp_path / "x.onnx")
