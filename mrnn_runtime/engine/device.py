"""A graph whose rows stay in the memory of a device from step to step, through ONNX IO binding.

Not yet run on a GPU: written to what ONNX Runtime documents. The suite runs it on the CPU provider,
where the device's memory is the host's; the code is the same.

What a step hands on is bound to the device, and rows are taken there by a graph of one Gather node,
so that no state passes through the host; only tokens go in, and the k best come back. Padding rows
fill up to a power of two: a few shapes instead of hundreds keep the memory of the arena small, and
spare TensorRT new engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.engine.providers import load_onnxruntime
from mrnn_runtime.engine.sessions import gather_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.tensors import TensorSpec
    from mrnn_runtime.engine.sessions import Session


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


class DeviceSession:
    """A ``Session`` that leaves on the device what is to be kept; for several threads at a time."""

    __slots__ = ("_device", "_gathers", "_row_inputs", "_session")

    def __init__(self, session: Session, device: str) -> None:
        """Wrap a session.

        Args:
            session: on CUDA or TensorRT; on the CPU in tests.
            device: where ONNX Runtime keeps the values of its provider: ``cuda``, or ``cpu``.
        """
        self._session = session
        self._device = device
        self._row_inputs = {spec.name for spec in session.inputs if isinstance(spec.shape[0], str)}
        self._gathers: dict[tuple[str, int], Session] = {}

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
            binding = self._bind(padded)
            for name in outputs:
                binding.bind_output(name, self._device if name in kept else "cpu")
            values = _finish(self._session.native, binding)
        except Exception as error:  # the exceptions of ONNX Runtime share no base
            raise self._session.failure(error) from error
        return [
            DeviceRows(value, count, self) if name in kept else _on_host(value)[:count]
            for name, value in zip(outputs, values, strict=True)
        ]

    def gather(self, value: Any, rows: NDArray[np.int64]) -> Any:  # noqa: ANN401
        """Take rows of a value on the device, and return a value there."""
        kind = (value.data_type(), len(value.shape()))
        if kind not in self._gathers:
            self._gathers[kind] = gather_session(*kind, self._device)
        native = self._gathers[kind].native
        binding = native.io_binding()
        binding.bind_ortvalue_input("x", value)
        binding.bind_cpu_input("rows", rows)
        binding.bind_output("y", self._device)
        return _finish(native, binding)[0]

    def _bind(self, feeds: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an onnxruntime.IOBinding
        binding = self._session.native.io_binding()
        for name, feed in feeds.items():
            if isinstance(feed, np.ndarray):
                binding.bind_cpu_input(name, feed)
            else:
                binding.bind_ortvalue_input(name, feed)
        return binding

    def _upload(self, array: NDArray[Any]) -> Any:  # noqa: ANN401 - an onnxruntime.OrtValue
        return load_onnxruntime().OrtValue.ortvalue_from_numpy(array, self._device, 0)


def _finish(native: Any, binding: Any) -> list[Any]:  # noqa: ANN401
    """Run what is bound, wait for it, and return the values of the outputs."""
    binding.synchronize_inputs()
    native.run_with_iobinding(binding)
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
