"""The path on a GPU, with a stand-in for one: no GPU was at hand.

The stand-in computes with the real ONNX Runtime on the CPU, so that the numbers must be those of
the CPU. Around it, it behaves as ONNX Runtime documents: values live on a device, a copy to the
host is noticed, a CUDA graph reads and writes the addresses it was captured with and holds on to
what was on the host, and its runs must not overlap.
"""

import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.decoding.greedy import Greedy
from mrnn_runtime.decoding.sample import Sample
from mrnn_runtime.engine import device
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.engine.providers import PROVIDERS, small_model
from mrnn_runtime.engine.sessions import Session
from mrnn_runtime.errors import ProviderError
from mrnn_runtime.types import DecodeOptions

CPU, CUDA, TENSORRT = PROVIDERS.values()
WORDS = ("cuda", "cuda-graphs", "tensorrt")
PHOTOS = np.random.default_rng(7).integers(0, 256, (5, 16, 16, 3), np.uint8)


class Gpu:
    """Records what is asked of it.

    Attributes:
        events: what happened, in order.
        sessions: all of them: the encoder, the cell, and what takes rows.
        to_host: the names of the outputs that were copied to the host.
    """

    def __init__(self):
        self.events, self.sessions, self.to_host = [], [], []
        self.busy = threading.Lock()

    def module(self):
        module = ModuleType("onnxruntime")
        module.__spec__ = ModuleSpec("onnxruntime", None)
        for name in ("SessionOptions", "ExecutionMode"):
            setattr(module, name, getattr(onnxruntime, name))
        module.get_available_providers = lambda: [TENSORRT, CUDA, CPU]
        module.preload_dlls = lambda: (self.events.append("preload"), print("found cublas"))
        module.RunOptions = RunOptions
        module.InferenceSession = lambda *args, **options: GpuSession(self, *args, **options)
        module.OrtValue = ModuleType("OrtValue")
        module.OrtValue.ortvalue_from_numpy = lambda array, device, index: Value(
            self, "given", array.copy(), device
        )
        return module

    def session(self, takes):
        """Return the newest session whose graph has such an input."""
        return next(
            session
            for session in reversed(self.sessions)
            if takes in [one.name for one in session.get_inputs()]
        )

    @property
    def cell(self):
        return self.session("token")


class RunOptions:
    def __init__(self):
        self.graph = None

    def add_run_config_entry(self, key, value):
        assert key == "gpu_graph_id"
        self.graph = int(value)


class Value:
    """An OrtValue."""

    def __init__(self, gpu, name, array, device):
        self.gpu, self.name, self.array, self.device = gpu, name, array, device

    def shape(self):
        return list(self.array.shape)

    def data_type(self):
        return {"float32": "tensor(float)", "int64": "tensor(int64)"}[self.array.dtype.name]

    def numpy(self):
        if self.device == "cuda":
            self.gpu.to_host.append(self.name)
        return self.array

    def update_inplace(self, array):
        assert (array.dtype, array.shape) == (self.array.dtype, self.array.shape)
        self.array[:] = array


class Binding:
    """An IOBinding."""

    def __init__(self, gpu):
        self.gpu, self.inputs, self.outputs, self.synchronized = gpu, {}, {}, []

    def bind_cpu_input(self, name, array):
        assert array.flags.c_contiguous
        self.inputs[name] = array

    def bind_ortvalue_input(self, name, value):
        assert value.device == "cuda"
        self.inputs[name] = value

    def bind_output(self, name, device="cpu"):
        self.outputs[name] = device

    def bind_ortvalue_output(self, name, value):
        assert value.device == "cuda"
        self.outputs[name] = value

    def synchronize_inputs(self):
        self.synchronized.append("inputs")

    def synchronize_outputs(self):
        self.synchronized.append("outputs")

    def get_outputs(self):
        assert self.synchronized[-2:] == ["inputs", "outputs"]
        return self.found


class GpuSession:
    def __init__(self, gpu, model, *, sess_options, providers, enable_fallback):
        assert not enable_fallback
        self.real = onnxruntime.InferenceSession(model, sess_options, providers=[CPU])
        self.gpu, self.asked, self.fails = gpu, providers, None
        self.graphs, self.rows = {}, []
        gpu.events.append("session")
        gpu.sessions.append(self)

    def get_providers(self):
        return [one if isinstance(one, str) else one[0] for one in self.asked]

    def disable_fallback(self):
        pass

    def get_inputs(self):
        return self.real.get_inputs()

    def get_outputs(self):
        return self.real.get_outputs()

    def run(self, outputs, feeds):
        return self.real.run(outputs, feeds)

    def io_binding(self):
        return Binding(self.gpu)

    def run_with_iobinding(self, binding, options):
        if self.fails:
            raise self.fails
        graph = options.graph if options else None
        assert (graph is not None) == ("enable_cuda_graph" in self.cuda_options)
        if graph is not None and graph > 0:
            assert self.gpu.busy.acquire(blocking=False), "runs of CUDA graphs overlap"
        try:
            self.compute(binding, graph)
        finally:
            if graph is not None and graph > 0:
                self.gpu.busy.release()

    @property
    def cuda_options(self):
        return next(options for name, options in self.asked[:-1] if name == CUDA)

    def compute(self, binding, graph):
        bound = {**binding.inputs, **{f"-> {k}": v for k, v in binding.outputs.items()}}
        if graph is not None and graph > 0:
            assert all(isinstance(v, Value) for n, v in bound.items() if n != "k")
            first = self.graphs.setdefault(graph, {n: (id(v), v) for n, v in bound.items()})
            assert {n: i for n, (i, _) in first.items()} == {n: id(v) for n, v in bound.items()}
        feeds = {
            name: value.array if isinstance(value, Value) else value
            for name, value in binding.inputs.items()
        }
        if "token" in feeds:
            self.rows.append(len(feeds["token"]))
        binding.found = []
        found = self.real.run(list(binding.outputs), feeds)
        for (name, place), array in zip(binding.outputs.items(), found, strict=True):
            if isinstance(place, Value):
                assert place.array.shape == array.shape
                place.array[:] = array
                binding.found.append(place)
            else:
                binding.found.append(Value(self.gpu, name, array, place))


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu.module())
    return gpu


@pytest.fixture(params=[False, True], ids=["one state", "a state from the image"])
def bundle(request, make_tiny_bundle):
    return load_bundle(make_tiny_bundle(memory=request.param))


@pytest.fixture
def on_cpu(bundle):
    """The two graphs on the CPU, with the real ONNX Runtime."""
    return load_model(bundle, "cpu", threads=1)


def tokens(*ids):
    return np.array(ids, np.int64)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("decoder", [Greedy, Beam, Sample], ids=lambda d: d.__name__)
def test_captions_are_those_of_the_cpu(on_cpu, bundle, gpu, word, decoder):
    options = DecodeOptions(beam_size=3, n_best=3, max_length=8, prefix=(4,), no_repeat_ngram=2)
    encoder, model = load_model(bundle, word)
    images = encoder.encode(PHOTOS)
    assert encoder.provider == model.provider == gpu.cell.get_providers()[0] != CPU
    found = decoder().decode(model, images, options)
    assert found == decoder().decode(on_cpu[1], images, options)


@pytest.mark.parametrize("word", WORDS)
def test_states_stay_on_the_device(on_cpu, bundle, gpu, word):
    encoder, model = load_model(bundle, word)
    Beam().decode(model, encoder.encode(PHOTOS), bundle.decode_options)
    assert set(gpu.to_host) <= {"best_values", "best_ids"}
    # Rows come in powers of two, so that there are few shapes.
    assert len(gpu.cell.rows) > 3
    assert {rows & (rows - 1) for rows in gpu.cell.rows} == {0}
    assert len(PHOTOS) not in gpu.cell.rows


@pytest.mark.parametrize("word", WORDS)
def test_rows_are_taken_as_numpy_takes_them(on_cpu, bundle, gpu, word):
    encoder, model = load_model(bundle, word)
    images = encoder.encode(PHOTOS)
    pairs = [(model, model.start(images)), (on_cpu[1], on_cpu[1].start(images))]
    for rows in ([3, 3, 0], [0, 1, 2, 2, 1, 0, 0, 1, 2], [5, 8], [], [0]):
        here, there = (m.step(tokens(*[5] * len(s)), s, 4, full=True) for m, s in pairs)
        for name in ("ids", "values", "log_probs"):
            assert np.array_equal(getattr(here[0], name), getattr(there[0], name)), name
        for name, array in there[1].arrays.items():
            assert np.array_equal(np.asarray(here[1].arrays[name]), array), name
        if not rows:
            assert len(here[1].take(tokens())) == 0
            continue
        rows = [row % len(here[1]) for row in rows]
        pairs = [(model, here[1].take(tokens(*rows))), (on_cpu[1], there[1].take(tokens(*rows)))]


@pytest.mark.parametrize("word", WORDS)
def test_a_step_leaves_the_state_before_it_alone(bundle, gpu, word):
    encoder, model = load_model(bundle, word)
    state = model.start(encoder.encode(PHOTOS))
    first, after = model.step(tokens(*[1] * 5), state, 3)
    second, _ = model.step(tokens(*[5] * 5), after, 3)
    model.step(tokens(*[6] * 5), state, 3)
    again, _ = model.step(tokens(*[1] * 5), state, 3)
    repeated, _ = model.step(tokens(*[5] * 5), after, 3)
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(second.values, repeated.values)


def test_a_graph_is_captured_for_each_shape_once(bundle, gpu):
    encoder, model = load_model(bundle, "cuda-graphs")
    images = encoder.encode(PHOTOS)
    assert "enable_cuda_graph" not in gpu.session("image").cuda_options
    assert gpu.cell.cuda_options["enable_cuda_graph"] == "1"
    for _ in range(3):
        state = model.start(images)
        _, state = model.step(tokens(*[1] * 5), state, 3)
        _, state = model.step(tokens(*[4] * 5), state, 3)
        _, state = model.step(tokens(*[4] * 3), state.take(tokens(0, 2, 4)), 3)
        model.step(tokens(*[4] * 3), state, 2)
    # 8 rows and 4 rows with the three best, 4 rows with the two best.
    assert len(gpu.cell.graphs) == 3
    assert len(gpu.cell.rows) == 3 * 4 + 3


def test_graphs_run_one_at_a_time(on_cpu, bundle, gpu):
    encoder, model = load_model(bundle, "cuda-graphs")
    images = [encoder.encode(PHOTOS[i : i + 1]) for i in range(4)]
    wanted = [Beam().decode(on_cpu[1], image, bundle.decode_options) for image in images]
    found = [None] * 4

    def work(i):
        found[i] = [Beam().decode(model, images[i], bundle.decode_options) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[one] * 5 for one in wanted]


def test_the_libraries_are_loaded_first_and_in_silence(bundle, gpu, capsys):
    load_model(bundle, "cuda")
    assert gpu.events[:2] == ["preload", "session"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", WORDS)
def test_what_fails_on_the_device_is_the_provider(bundle, gpu, word):
    encoder, model = load_model(bundle, word)
    state = model.start(encoder.encode(PHOTOS))
    gpu.cell.fails = RuntimeError("Failed to allocate memory")
    with pytest.raises(ProviderError, match=r"cell\.onnx failed on .*: Failed to alloc") as caught:
        model.step(tokens(*[1] * 5), state, 3)
    assert "smaller batches" in caught.value.hint


def test_engines_of_tensorrt_are_kept_where_the_variable_says(bundle, gpu, monkeypatch):
    monkeypatch.delenv("MRNN_TENSORRT_CACHE", raising=False)
    load_model(bundle, "tensorrt")
    assert gpu.cell.asked == [(TENSORRT, {}), (CUDA, {"use_tf32": "0"}), CPU]
    monkeypatch.setenv("MRNN_TENSORRT_CACHE", "engines")
    load_model(bundle, "tensorrt")
    name, options = gpu.cell.asked[0]
    assert name == TENSORRT
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "engines"


def test_the_graph_that_takes_rows_is_a_valid_model():
    import onnx

    for dimensions in (1, 2, 4):
        facts = (1, dimensions)
        model = small_model("Gather", {"x": facts, "rows": (7, 1)}, facts)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


@pytest.mark.parametrize("graphs", [False, True])
def test_the_calls_are_those_of_the_real_onnx_runtime(on_cpu, bundle, monkeypatch, graphs):
    """With the host in the place of the device, binding and copying are the real ones."""
    monkeypatch.setattr(device, "_DEVICE", "cpu")
    gather_session = device.gather_session
    monkeypatch.setattr(device, "gather_session", lambda *facts: gather_session(*facts[:2], "cpu"))
    encoder, model = load_model(bundle, "cpu", threads=1)
    model._session = device.DeviceSession(model._session, graphs=graphs)
    images = encoder.encode(PHOTOS)
    found = Beam().decode(model, images, bundle.decode_options)
    assert found == Beam().decode(on_cpu[1], images, bundle.decode_options)


def test_the_cpu_binds_nothing(on_cpu, bundle):
    encoder, model = on_cpu
    state = model.start(encoder.encode(PHOTOS))
    _, after = model.step(tokens(*[1] * 5), state, 3)
    assert isinstance(model._session, Session)
    assert {type(array) for s in (state, after) for array in s.arrays.values()} == {np.ndarray}
