"""Sessions: what is set, what comes out, and that every failure is one of our errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrnn_runtime.bundle.tensors import TensorSpec
from mrnn_runtime.engine import sessions
from mrnn_runtime.engine.sessions import Session, make_session
from mrnn_runtime.errors import BundleError, ProviderError, UsageError

IMAGES = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)


def cell_feeds(*tokens):
    rows = len(tokens)
    return {
        "token": np.array(tokens),
        "image_term": np.zeros((rows, 6), np.float32),
        "state": np.zeros((rows, 5), np.float32),
        "k": np.array([3]),
    }


def test_a_session_tells_what_it_is(tiny_bundle, capfd):
    session = make_session(tiny_bundle / "encoder.onnx", "cpu")
    assert session.provider == "CPUExecutionProvider"
    assert session.inputs == (TensorSpec("image", "uint8", ("n", 16, 16, 3)),)
    assert session.outputs[0] == TensorSpec("image_term", "float32", ("n", 6))
    assert capfd.readouterr() == ("", "")


def test_onnx_runtime_keeps_its_remarks_to_itself(tiny_copy, capfd):
    import onnx

    model = onnx.load_model(tiny_copy / "encoder.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(IMAGES, "unused"))
    onnx.save_model(model, tiny_copy / "encoder.onnx")
    make_session(tiny_copy / "encoder.onnx", "cpu")
    assert capfd.readouterr() == ("", "")


def test_only_what_is_asked_for_comes_out(tiny_bundle):
    session = make_session(tiny_bundle / "cell.onnx", "cpu", threads=1)
    ids, state = session.run(["best_ids", "next_state"], cell_feeds(1, 4))
    assert (ids.shape, ids.dtype) == ((2, 3), np.int64)
    assert (state.shape, state.dtype) == ((2, 5), np.float32)


def test_options(tiny_bundle):
    options = make_session(tiny_bundle / "encoder.onnx", "cpu", 2)._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("300000 100000\n", 3), ("150000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", 8)],
)
def test_a_container_pays_for_fewer_cores(tiny_bundle, tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(sessions, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert sessions.cores() == 8
    (tmp_path / "cpu.max").write_text(quota)
    assert sessions.cores() == expected
    options = make_session(tiny_bundle / "cell.onnx", "cpu").native.get_session_options()
    assert options.intra_op_num_threads == (expected if expected < 8 else 0)


def test_threads_change_nothing(tiny_bundle):
    one, two = (make_session(tiny_bundle / "encoder.onnx", "cpu", threads) for threads in (1, 2))
    names = [tensor.name for tensor in one.outputs]
    for a, b in zip(*(s.run(names, {"image": IMAGES}) for s in (one, two)), strict=True):
        assert np.array_equal(a, b)


def test_what_cannot_be_asked_for(tiny_bundle):
    with pytest.raises(UsageError, match="threads"):
        make_session(tiny_bundle / "encoder.onnx", "cpu", -1)
    with pytest.raises(UsageError, match="unknown provider"):
        make_session(tiny_bundle / "encoder.onnx", "gpu")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 99, None, "half"])
def test_a_file_that_is_no_model(tiny_copy, content, capfd):
    path = tiny_copy / "encoder.onnx"
    if content is None:
        path.unlink()
    else:
        half = path.read_bytes()[: path.stat().st_size // 2]
        path.write_bytes(half if content == "half" else content)
    with pytest.raises(BundleError, match=r"encoder\.onnx (does not load|has )") as caught:
        make_session(path, "cpu")
    assert caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_missing_or_cut(tiny_copy):
    path = tiny_copy / "cell.onnx.data"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"cell\.onnx does not load"):
        make_session(tiny_copy / "cell.onnx", "cpu")
    path.unlink()
    with pytest.raises(BundleError, match=r"cell\.onnx does not load"):
        make_session(tiny_copy / "cell.onnx", "cpu")


@pytest.mark.parametrize("place", ["../outside.data", "absolute", "linked.data"])
def test_weights_outside_the_folder_are_not_read(tiny_copy, tmp_path, place):
    import onnx

    outside = shutil.copy(tiny_copy / "cell.onnx.data", tmp_path / "outside.data")
    (tiny_copy / "linked.data").symlink_to(outside)
    model = onnx.load_model(tiny_copy / "cell.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(outside) if place == "absolute" else place
    (tiny_copy / "cell.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="which is no file of the bundle"):
        make_session(tiny_copy / "cell.onnx", "cpu")


def test_the_cells_weights_are_mapped_and_not_copied(tiny_bundle):
    session = make_session(tiny_bundle / "cell.onnx", "cpu", files=["cell.onnx.data"])
    if sys.platform == "linux":
        assert str(tiny_bundle / "cell.onnx.data") in Path("/proc/self/maps").read_text()
    assert session.run(["best_ids"], cell_feeds(1))


@pytest.mark.parametrize(
    "body",
    [
        "big = ConstantOfShape (size) t = Mul (big, x)",
        "big = Expand (x, size) t = Neg (big)",
        "big = Tile (x, size) t = Neg (big)",
        "pads = Concat <axis = 0> (zero, size) t = Pad (x, pads)",
    ],
)
def test_a_small_graph_cannot_take_all_memory(tmp_path, body):
    import onnx

    text = f"""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1] x, int64[1] size, int64[1] zero) => (float[1] y)
    {{ {body} y = ReduceSum <keepdims = 1> (t) }}
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "x.onnx")
    session = make_session(tmp_path / "x.onnx", "cpu", 1)
    feeds = {"x": np.ones(1, np.float32), "zero": np.zeros(1, np.int64)}
    (small,) = session.run(["y"], {**feeds, "size": np.array([3])})
    assert small.shape == (1,)
    with pytest.raises(BundleError, match=r"x\.onnx failed on CPU"):
        session.run(["y"], {**feeds, "size": np.array([sessions.memory_limit() // 4])})


CODE = """
import sys
from pathlib import Path
from mrnn_runtime.engine.sessions import make_session
from mrnn_runtime.errors import MrnnError
try:
    make_session(Path(sys.argv[1]), "cpu", 1)
except MrnnError as error:
    print(error)
status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the tests' own process
print(int(status.partition("VmHWM:")[2].split()[0]) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is asked of Linux")
@pytest.mark.parametrize("products", [8, 400])
def test_what_is_computed_at_load_time_is_bounded(tmp_path, products):
    import onnx

    side = 9000 if products == 8 else 800
    constant = onnx.numpy_helper.from_array
    names = [f"m{i}" for i in range(products)]
    lines = [f"{name} = MatMul (a{name}, b) p{name} = MatMul (x, {name})" for name in names]
    text = f"""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[n, {side}] x) => (float[n, {side}] y)
    {{ {" ".join(lines)} y = Sum ({", ".join("p" + name for name in names)}) }}
    """
    model = onnx.parser.parse_model(text)
    for number, name in enumerate(names):
        column = np.full((side, 1), number, np.float32)
        model.graph.initializer.append(constant(column, f"a{name}"))
    model.graph.initializer.append(constant(np.ones((1, side), np.float32), "b"))
    onnx.save(model, tmp_path / "x.onnx")
    command = [sys.executable, "-c", CODE, str(tmp_path / "x.onnx")]
    environment = {**os.environ, "MRNN_MEMORY_MB": "500"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout.splitlines()[-1]) < 700


def test_a_limit_that_is_too_low_says_so(tiny_bundle, monkeypatch):
    monkeypatch.setattr(sessions, "memory_limit", lambda: 2**10)
    make_session(tiny_bundle / "encoder.onnx", "cpu")
    with pytest.raises(BundleError, match="MRNN_MEMORY_MB"):
        make_session(tiny_bundle / "encoder.onnx", "cpu", files=["encoder.onnx"])


@pytest.mark.parametrize("given", ["0", "-1", "1e3", "x", "9" * 99, "\u00b2"])
def test_a_limit_that_is_none(monkeypatch, given):
    monkeypatch.setenv("MRNN_MEMORY_MB", given)
    with pytest.raises(UsageError, match="MRNN_MEMORY_MB"):
        sessions.memory_limit()


def test_the_limit(monkeypatch):
    monkeypatch.setenv("MRNN_MEMORY_MB", "300")
    assert sessions.memory_limit() == 300 * 2**20
    monkeypatch.setenv("MRNN_MEMORY_MB", "")
    assert sessions.memory_limit() >= 2**31 + 2**29


def test_a_run_that_fails_on_the_cpu_is_the_model(tiny_bundle):
    session = make_session(tiny_bundle / "cell.onnx", "cpu")
    with pytest.raises(BundleError, match=r"cell\.onnx failed on CPUExecutionProvider"):
        session.run(["best_ids"], cell_feeds(12))


def test_a_run_that_fails_on_a_gpu_is_the_provider(tmp_path):
    class OutOfMemory:
        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_inputs(self):
            return []

        get_outputs = get_inputs

        def run(self, outputs, feeds):
            raise RuntimeError("Failed to allocate memory")

    session = Session(OutOfMemory(), tmp_path / "cell.onnx")
    with pytest.raises(ProviderError, match="failed on CUDAExecutionProvider") as caught:
        session.run(["best_ids"], {})
    assert "smaller batches" in caught.value.hint
