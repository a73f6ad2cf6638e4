"""A graph on a GPU whose rows stay in its memory from step to step.

Not yet run on a GPU: written to what ONNX Runtime documents, and tested with a stand-in.

What a step hands on is bound to the device, and rows are taken there by a graph of one Gather node,
so that no state passes through the host; only tokens go in, and the k best come back. Rows are
padded to a power of two: a few shapes instead of hundreds is what keeps the memory of the arena
small, spares TensorRT new engines, and lets CUDA graphs be replayed, each of which has its shapes
and its addresses for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.engine.providers import load_onnxruntime
from mrnn_runtime.engine.sessions import gather_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import TensorSpec
    from mrnn_runtime.engine.sessions import Session

_DEVICE = "cuda"


class DeviceRows:
    """Rows in the memory of a GPU; stands for an array as far as ``OnnxState`` needs one.

    Attributes:
        value: an ``onnxruntime.OrtValue`` on the device, of these rows and some that mean nothing.
    """

    __slots__ = ("_count", "_home", "value")

    def __init__(self, value: Any, count: int, home: DeviceSession) -> None:  # noqa: ANN401
        """Wrap a value of which the first ``count`` rows count."""
        self.value, self._count, self._home = value, count, home

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def take(self, rows: NDArray[np.int64], axis: int = 0) -> DeviceRows:
        """Return the rows at ``rows``, int64 [s], as numpy does; nothing leaves the device."""
        assert axis == 0
        return DeviceRows(self._home.gather(self.value, _padded(rows)), len(rows), self._home)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401
        """Copy the rows to the host."""
        return np.array(self.value.numpy()[: self._count], dtype)


@dataclass(frozen=True, slots=True)
class _Captured:
    """A CUDA graph and what it reads and writes, at addresses that never change."""

    options: Any
    binding: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class DeviceSession:
    """A ``Session`` that leaves on the device what is to be kept; for several threads at a time.

    With CUDA graphs one thread runs at a time, because graphs of one session cannot overlap.
    """

    __slots__ = ("_captured", "_gathers", "_graphs", "_lock", "_row_inputs", "_session")

    def __init__(self, session: Session, *, graphs: bool = False) -> None:
        """Wrap a session on a GPU.

        Args:
            session: on CUDA or TensorRT.
            graphs: whether it was made for CUDA graphs, which are then captured and replayed.
        """
        self._session = session
        self._graphs = graphs
        self._row_inputs = {spec.name for spec in session.inputs if isinstance(spec.shape[0], str)}
        self._gathers: dict[tuple[str, int], Session] = {}
        self._captured: dict[tuple[object, ...], _Captured] = {}
        self._lock = Lock()

    @property
    def provider(self) -> str:
        """The execution provider that really runs."""
        return self._session.provider

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What goes in, in the order of the graph."""
        return self._session.inputs

    def place(self, array: NDArray[Any]) -> DeviceRows:
        """Copy rows, [r, ...], to the device."""
        return DeviceRows(self._upload(_padded(array)), len(array), self)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], kept: Sequence[str] = ()
    ) -> list[Any]:
        """Compute the outputs that are named.

        Args:
            outputs: their names; what is not kept comes back as an array.
            feeds: arrays, and ``DeviceRows``, of r rows each where the graph has rows.
            kept: the outputs that stay on the device.

        Raises:
            ProviderError: the graph fails, for want of memory for example.
        """
        count = next(len(feeds[name]) for name in self._row_inputs)
        padded = {
            name: feed.value
            if isinstance(feed, DeviceRows)
            else (_padded(feed) if name in self._row_inputs else feed)
            for name, feed in feeds.items()
        }
        try:
            if self._graphs:
                found = self._replay(outputs, padded, kept, _bucket(count))
            else:
                found = self._run(outputs, padded, kept)
            return [
                DeviceRows(value, count, self) if name in kept else value[:count]
                for name, value in zip(outputs, found, strict=True)
            ]
        except Exception as error:  # the exceptions of ONNX Runtime share no base
            raise self._session.failure(error) from error

    def gather(self, value: Any, rows: NDArray[np.int64], into: Any = None) -> Any:  # noqa: ANN401
        """Take rows of a value on the device, and return a value there; ``into`` is overwritten."""
        kind = (value.data_type(), len(value.shape()))
        if kind not in self._gathers:
            self._gathers[kind] = gather_session(*kind, "cuda")
        native = self._gathers[kind].native
        binding = native.io_binding()
        binding.bind_ortvalue_input("x", value)
        binding.bind_cpu_input("rows", rows)
        if into is None:
            binding.bind_output("y", _DEVICE)
        else:
            binding.bind_ortvalue_output("y", into)
        return _finish(native, binding)[0]

    def _run(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], kept: Sequence[str]
    ) -> list[Any]:
        binding = self._bind(feeds)
        for name in outputs:
            binding.bind_output(name, _DEVICE if name in kept else "cpu")
        found = zip(outputs, _finish(self._session.native, binding), strict=True)
        return [value if name in kept else _on_host(value) for name, value in found]

    def _bind(self, feeds: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an onnxruntime.IOBinding
        binding = self._session.native.io_binding()
        for name, feed in feeds.items():
            if isinstance(feed, np.ndarray):
                binding.bind_cpu_input(name, feed)
            else:
                binding.bind_ortvalue_input(name, feed)
        return binding

    def _replay(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], kept: Sequence[str], rows: int
    ) -> list[Any]:
        """Run a graph that was captured for these shapes, or capture it; copy what it writes."""
        # What does not come in rows is a number that the captured kernels hold on to.
        fixed = [(n, f.tobytes()) for n, f in feeds.items() if n not in self._row_inputs]
        key = (rows, *outputs, *fixed)
        everything = np.arange(rows)
        with self._lock:
            if key not in self._captured:
                self._captured[key] = self._capture(outputs, feeds, everything)
            graph = self._captured[key]
            for name in self._row_inputs:
                if isinstance(feeds[name], np.ndarray):
                    graph.inputs[name].update_inplace(feeds[name])
                else:
                    self.gather(feeds[name], everything, into=graph.inputs[name])
            _finish(self._session.native, graph.binding, graph.options)
            # The next replay overwrites them, and whoever asked may look at them later.
            return [
                self.gather(graph.outputs[name], everything)
                if name in kept
                else _on_host(graph.outputs[name])
                for name in outputs
            ]

    def _capture(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], everything: NDArray[np.int64]
    ) -> _Captured:
        """Find memory for what goes in and out, and bind it for good."""
        inputs = {
            name: feed
            if name not in self._row_inputs
            else self._upload(feed)
            if isinstance(feed, np.ndarray)
            else self.gather(feed, everything)
            for name, feed in feeds.items()
        }
        binding = self._bind(inputs)
        for name in outputs:
            binding.bind_output(name, _DEVICE)
        found = _finish(self._session.native, binding, self._run_options(-1))
        for name, value in zip(outputs, found, strict=True):
            binding.bind_ortvalue_output(name, value)
        options = self._run_options(len(self._captured) + 1)
        return _Captured(options, binding, inputs, dict(zip(outputs, found, strict=True)))

    def _run_options(self, graph: int) -> Any:  # noqa: ANN401 - an onnxruntime.RunOptions
        options = load_onnxruntime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))  # -1 captures nothing
        return options

    def _upload(self, array: NDArray[Any]) -> Any:  # noqa: ANN401 - an onnxruntime.OrtValue
        return load_onnxruntime().OrtValue.ortvalue_from_numpy(array, _DEVICE, 0)


def _finish(native: Any, binding: Any, options: Any = None) -> list[Any]:  # noqa: ANN401
    """Run what is bound, wait for it, and return the values of the outputs."""
    binding.synchronize_inputs()
    native.run_with_iobinding(binding, options)
    binding.synchronize_outputs()
    return list(binding.get_outputs())


def _bucket(count: int) -> int:
    """Return the power of two that holds this many rows."""
    return 1 << max(count - 1, 0).bit_length()


def _padded(array: NDArray[Any]) -> NDArray[Any]:
    """Repeat the first row at the end, zeros where there is none, until the rows fill a bucket."""
    missing = _bucket(len(array)) - len(array)
    if not missing:
        return np.ascontiguousarray(array)
    more = array[:1] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
    return np.concatenate([array, np.repeat(more, missing, axis=0)])


def _on_host(value: Any) -> NDArray[Any]:  # noqa: ANN401 - an onnxruntime.OrtValue
    # A view of a value on the host does not keep it alive.
    return np.array(value.numpy())
