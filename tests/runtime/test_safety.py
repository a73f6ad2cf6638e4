"""What a graph must not have, and that graphs of bundles have none of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.engine.safety import checked_graph
from mrnn_runtime.engine.sessions import make_session
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
    checked_graph(write(tmp_path / "x.onnx", PLAIN))
    checked_graph(tiny_bundle / "encoder.onnx")
    checked_graph(tiny_bundle / "cell.onnx")


def norm(kind, steps=""):
    return f"""<ir_version: 9, opset_import: ["" : 17]>
g ({kind}[n, 2, h] x) => ({kind}[n, 2, h] y) <{kind}[2] s = {{1, 1}}>
{{ {steps} y = InstanceNormalization (x, s, s) }}"""


def test_an_instance_normalisation_of_float32_passes(tmp_path):
    checked_graph(write(tmp_path / "x.onnx", norm("float")))
    cast = "c = Cast <to = 1> (s) f = Cast <to = 1> (x) "
    text = (
        norm("float16", cast).replace("(x, s, s)", "(f, c, c)").replace("=> (float16", "=> (float")
    )
    checked_graph(write(tmp_path / "x.onnx", text))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        # In float16, ONNX Runtime 1.32 ends the process where h is 0.
        (norm("float16"), "an InstanceNormalization that is not seen to be of float32"),
        (
            norm("float", "c = Cast <to = 10> (s)").replace("(x, s, s)", "(x, c, c)"),
            "an InstanceNormalization that is not seen to be of float32",
        ),
        (FUNCTIONS, "functions of its own"),
        (FOREIGN, "an operator of b'own'"),
        (LOOP, "a graph inside of a node"),
        (PLAIN.replace("Clip", "RandomNormalLike"), "the operator b'RandomNormalLike'"),
        # ONNX Runtime 1.32 reads from outside of its memory there.
        (
            PLAIN.replace("Clip (x)", "GatherND <batch_dims = -1> (x, x)"),
            "a negative or large batch_dims",
        ),
        (
            PLAIN.replace("Clip (x)", "Split <num_outputs = 2> (x)"),
            "a num_outputs that is not the number of outputs",
        ),
        (PLAIN.replace("Clip (x)", 'Einsum <equation = "i-"> (x)'), "an equation that is none"),
        (PLAIN.replace("Clip", "Nonsense"), "the operator b'Nonsense'"),
    ],
)
def test_others_do_not(tmp_path, text, complaint):
    with pytest.raises(BundleError, match=f"x.onnx has {complaint}") as caught:
        checked_graph(write(tmp_path / "x.onnx", text))
    assert caught.value.hint


def test_a_bundle_is_checked_before_it_is_run(tiny_copy):
    write(tiny_copy / "cell.onnx", LOOP)
    write_manifest(tiny_copy, read_manifest(tiny_copy))
    with pytest.raises(BundleError, match="a graph inside of a node"):
        load_model(load_bundle(tiny_copy), "cpu")


def test_the_bytes_that_were_checked_are_what_runs(tiny_copy, monkeypatch):
    """A file that changes in between makes no difference: ONNX Runtime is given no path."""
    read = Path.read_bytes

    def read_and_replace(path):
        data = read(path)
        if path.name == "encoder.onnx":
            write(path, LOOP)
        return data

    bundle = load_bundle(tiny_copy)
    monkeypatch.setattr(Path, "read_bytes", read_and_replace)
    encoder, _ = load_model(bundle, "cpu")
    assert len(encoder.encode(np.zeros((1, 16, 16, 3), np.uint8))) == 1
    assert b"Loop" in read(tiny_copy / "encoder.onnx")


def varint(number, *, size=0):
    """Write a number in seven bits a byte, in at least ``size`` bytes."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    groups += [0] * (size - len(groups))
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def part(tag, value, **odd):
    return varint(tag, **odd) + varint(len(value)) + value


GRAPH = part(0x0A, part(0x0A, b"x") + part(0x12, b"y") + part(0x22, b"Loop"))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        # Bit 32 of a tag is read by some parsers and dropped by others: here it hides the graph.
        (part(0x3A, b"") + part(1 << 32 | 0x3A, GRAPH), "unknown or of another type"),
        (part(0x3A, GRAPH, size=2), "not in its shortest form"),
        (varint(0x3A) + varint(len(GRAPH), size=3) + GRAPH, "not in its shortest form"),
        (b"\x3a" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (part(0x3A, b"") + part(0x3A, GRAPH), "more than one graph"),
        (b"\x3b" + part(0x0A, b"") + b"\x3c", "unknown or of another type"),  # a group
        (part(0x3A, part(0x2A, b"\x70" + varint(2**32 + 1))), "a data_location of"),
        (part(0x3A, part(0x7A, b"")), "sparse weights"),
        (part(0xA2, b"", size=2), "a training graph"),
        (part(0x3A, b"") + part(0x7FA, b""), "unknown or of another type"),
        (part(0x3A, part(0x12, b"\xf2")), "a text that is not UTF-8"),
        (part(0x3A, part(0x2A, part(0x3A, bytes(2**22 + 1)))), "numbers that are not raw"),
        # A list that ONNX does not pack: of sizes, here.
        (part(0x3A, part(0x2A, part(0x0A, b"\x02\x03"))), "unknown or of another type"),
    ],
)
def test_an_odd_encoding_is_refused(tmp_path, data, complaint):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=complaint):
        checked_graph(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("unit", "count"), [(b"\xff", 2**20), (b"\x0a\x00", 2**20), (b"\x2a\x00", 2**22)]
)
def test_a_large_file_of_tiny_fields_costs_little(tmp_path, unit, count):
    """Read in time that grows with the square, or into objects a hundred times as large."""
    (tmp_path / "x.onnx").write_bytes(part(0x3A, unit * count))
    with pytest.raises(BundleError, match=r"ten bytes|more than \d+ fields"):
        checked_graph(tmp_path / "x.onnx")


def test_a_flatbuffer_is_no_model(tmp_path, tiny_copy):
    """What ONNX Runtime takes for its own format, by the name or by the mark, is refused here."""
    content = (tiny_copy / "cell.onnx").read_bytes()
    (tmp_path / "x.ort").write_bytes(b"\x08\x0a\x00\x00ORTM" + content)
    with pytest.raises(BundleError):
        checked_graph(tmp_path / "x.ort")


@pytest.mark.parametrize("place", ["hidden", "unlisted", "*/_ORT_MEM_ADDR_/*"])
def test_weights_are_read_from_listed_files_only(tiny_copy, place):
    import onnx

    name = {"hidden": ".hid", "unlisted": "more.data"}.get(place, place)
    if place in ("hidden", "unlisted"):
        shutil.copy(tiny_copy / "cell.onnx.data", tiny_copy / name)
    model = onnx.load_model(tiny_copy / "cell.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    (tiny_copy / "cell.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="which is no file of the bundle"):
        checked_graph(tiny_copy / "cell.onnx", files=["cell.onnx.data"])


def test_the_weights_of_a_bundle_are_those_that_it_lists(tiny_copy):
    import onnx

    shutil.copy(tiny_copy / "cell.onnx.data", tiny_copy / ".hid")
    model = onnx.load_model(tiny_copy / "cell.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = ".hid"
    (tiny_copy / "cell.onnx").write_bytes(model.SerializeToString())
    write_manifest(tiny_copy, read_manifest(tiny_copy))
    with pytest.raises(BundleError, match="which is no file of the bundle"):
        load_model(load_bundle(tiny_copy), "cpu")


FLAT = LOOP.replace("9223372036854775807", "TRIPS")


class TestFlattened:
    @pytest.mark.parametrize("trips", [0, 1, 64])
    def test_a_short_loop_passes_and_runs(self, tmp_path, trips):
        path = write(tmp_path / "x.onnx", FLAT.replace("TRIPS", str(trips)))
        session = make_session(path, "cpu", 1, flattened=True)
        (result,) = session.run(["y"], {"x": np.ones(1, np.float32)})
        assert result == (-1) ** trips

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            (FLAT.replace("TRIPS", "65"), "number of trips"),
            (FLAT.replace("TRIPS", "-1"), "number of trips"),
            (FLAT.replace("Constant <value = int64 {TRIPS}> ()", "Size (x)"), "number of trips"),
            (FLAT.replace("(times, , x)", "(, , x)").replace("TRIPS", "1"), "number of trips"),
            (FLAT.replace("Neg", "RandomNormalLike").replace("TRIPS", "1"), "the operator"),
            (PLAIN, "0 loops instead of one"),
        ],
    )
    def test_other_loops_do_not(self, tmp_path, text, complaint):
        with pytest.raises(BundleError, match=complaint):
            checked_graph(write(tmp_path / "x.onnx", text), flattened=True)

    def test_a_number_of_trips_that_is_there_twice(self, tmp_path):
        import onnx

        path = write(tmp_path / "x.onnx", FLAT.replace("TRIPS", "1"))
        model = onnx.load(path)
        many = onnx.numpy_helper.from_array(np.array(2**62), "times")
        model.graph.initializer.append(many)
        onnx.save(model, path)
        with pytest.raises(BundleError, match="number of trips"):
            checked_graph(path, flattened=True)

    def test_a_loop_inside_of_the_loop(self, tmp_path):
        import onnx

        model = onnx.parser.parse_model(FLAT.replace("TRIPS", "1"))
        body = model.graph.node[1].attribute[0].g
        body.node.append(model.graph.node[1])
        onnx.save(model, tmp_path / "x.onnx")
        with pytest.raises(BundleError, match="a graph inside of a node"):
            checked_graph(tmp_path / "x.onnx", flattened=True)


@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_what_is_no_model_is_refused_or_passed_on(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    try:
        checked_graph(path)
    except BundleError as error:
        assert "any.onnx" in str(error)


@pytest.mark.parametrize("size", [0, 1, 500, -1])
def test_a_file_that_is_cut(tmp_path, tiny_bundle, size):
    (tmp_path / "x.onnx").write_bytes((tiny_bundle / "cell.onnx").read_bytes()[:size])
    with pytest.raises(BundleError, match=r"it is no ONNX file|which no bundle needs"):
        checked_graph(tmp_path / "x.onnx")


def test_a_dequantised_weight_counts_as_the_weight(tmp_path):
    import onnx
    from onnx import numpy_helper

    text = """
    <ir_version: 10, opset_import: ["": 17]>
    dequantised (float[n, 300] x) => (float[n, 400] y)
    {
        weights = DequantizeLinear <axis = 1> (whole, steps, zeros)
        y = MatMul (x, weights)
    }
    """
    model = onnx.parser.parse_model(text)
    arrays = {
        "whole": np.zeros((300, 400), np.int8),
        "steps": np.ones(400, np.float32),
        "zeros": np.zeros(400, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.save(model, tmp_path / "x.onnx")
    whole = 300 * 400
    assert checked_graph(tmp_path / "x.onnx").constants == 4 * (whole + whole + 800)
