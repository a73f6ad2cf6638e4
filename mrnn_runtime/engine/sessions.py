"""ONNX Runtime sessions: every option that is not the default is set here."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.tensors import TensorSpec
from mrnn_runtime.engine import prepared
from mrnn_runtime.engine.providers import (
    PROVIDERS,
    load_onnxruntime,
    one_line,
    open_session,
    resolve,
    small_model,
)
from mrnn_runtime.engine.safety import checked_graph
from mrnn_runtime.errors import BundleError, MrnnError, ProviderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

# By the names that ONNX Runtime gives to types of tensors: numpy's name, and ONNX's number.
_TYPES = {
    "tensor(bool)": ("bool", 9),
    "tensor(double)": ("float64", 11),
    "tensor(float)": ("float32", 1),
    "tensor(float16)": ("float16", 10),
    "tensor(int32)": ("int32", 6),
    "tensor(int64)": ("int64", 7),
    "tensor(int8)": ("int8", 3),
    "tensor(uint8)": ("uint8", 2),
}
# Bytes that sessions of this process may take on the host, and more for each core.
_MEMORY, _MEMORY_A_CORE = 2**31, 2**29
_LARGEST_CONSTANT = "optimization.constant_folding_max_output_size_in_bytes"
# Where ONNX Runtime looks for the weights of a model that it is given as bytes.
_EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"
_MOST_THREADS = 1024
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Return how many cores this process may keep busy, by its affinity and its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(allowed, _quota() or allowed)


def _quota() -> int:
    """Return how many whole cores a container's quota pays for, at least 1; 0 without a quota."""
    try:
        quota, _, period = _QUOTA.read_text(encoding="ascii").partition(" ")
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such control group, or no limit: "max 100000"
        return 0


class Session:
    """A graph that is ready to run; may be used by several threads at a time.

    Attributes:
        provider: the execution provider that it really runs on.
        inputs: what goes in, in the order of the graph.
        outputs: what comes out.
    """

    __slots__ = ("_path", "_session", "inputs", "outputs", "provider")

    def __init__(self, session: Any, path: Path) -> None:  # noqa: ANN401
        """Wrap an ``onnxruntime.InferenceSession`` of the file ``path``."""
        self._session = session
        self._path = path
        self.provider: str = session.get_providers()[0]
        self.inputs = tuple(map(_tensor, session.get_inputs()))
        self.outputs = tuple(map(_tensor, session.get_outputs()))

    def place(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return rows, [r, ...], where the graph wants them: as they are."""
        return array

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]], kept: Sequence[str] = ()
    ) -> list[NDArray[Any]]:
        """Compute the outputs that are named, at least one; others are not copied out.

        Args:
            outputs: their names.
            feeds: the inputs.
            kept: outputs that go back into the graph only, which makes no difference here.

        Raises:
            BundleError: the graph fails on the CPU.
            ProviderError: it fails on another provider, for want of memory for example.
        """
        try:
            return self._session.run(outputs, feeds)  # type: ignore[no-any-return]
        except Exception as error:  # the exceptions of ONNX Runtime share no base
            raise self.failure(error) from error

    def failure(self, error: Exception) -> MrnnError:
        """Return what a failure of the graph is to us."""
        message = f"{self._path} failed on {self.provider}: {one_line(error)}"
        if self.provider == PROVIDERS["cpu"]:
            return BundleError(message, hint="check the bundle with mrnn verify")
        return ProviderError(message, hint="take smaller batches, or another provider")

    @property
    def native(self) -> Any:  # noqa: ANN401
        """The ``onnxruntime.InferenceSession``."""
        return self._session


def make_session(
    path: Path,
    provider: str,
    threads: int = 0,
    *,
    files: Collection[str] | None = None,
    flattened: bool = False,
    digest: str = "",
) -> Session:
    """Check an ONNX file, and create the session of what was checked.

    Args:
        path: the file; its external data lie beside it.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; only ``auto`` may fall back.
        threads: CPU threads that share one run; 0 takes one a core.
        files: the bundle's files, by their path from the file's folder, where external data may
            lie; None for a graph that is no stranger's: any file below that folder, and weights of
            any size.
        flattened: whether it is a graph of ``mrnn flatten``, with its one loop.
        digest: sha256 of the file, which was checked; lets what ONNX Runtime makes of a large graph
            on the CPU be kept for the next process.

    Raises:
        UsageError: there is no such provider, or the number of threads is negative.
        ProviderError: the provider is not really there.
        BundleError: the file is refused, see :mod:`mrnn_runtime.engine.safety`, or does not load.
    """
    if not 0 <= threads <= _MOST_THREADS:
        raise UsageError(f"threads must lie in 0..{_MOST_THREADS}, not {threads}")
    word = resolve(provider)
    place = None
    if digest and word == "cpu":
        place = prepared.place_of(digest, load_onnxruntime().__version__, memory_limit())
    if place and (data := prepared.kept(place)):
        options = _options(threads)
        options.graph_optimization_level = load_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        with suppress(MrnnError):
            return Session(open_session(data, str(path), word, options), path)
    graph = checked_graph(path, files, flattened=flattened)
    # Kernels keep a second copy of their weights, in an order of their own. The estimate is far too
    # high for some nets with attention masks and for a search in the graph, whose shapes follow the
    # batch; graphs that we made ourselves need none.
    bounded = files is not None and not flattened
    if bounded and 2 * graph.constants > memory_limit():
        raise BundleError(
            f"{path} may take {2 * graph.constants >> 20} MB for its weights alone",
            hint=f"allow it more than {memory_limit() >> 20}: MRNN_MEMORY_MB=...",
        )
    options = _options(threads)
    options.add_session_config_entry(_EXTERNAL_DATA, os.path.abspath(path.parent))
    options.add_session_config_entry(_LARGEST_CONSTANT, str(graph.largest))

    def start(kept: str = "") -> Session:
        options.optimized_model_filepath = kept
        return Session(open_session(graph.data, str(path), word, options), path)

    if place and graph.whole and hashlib.sha256(graph.data).hexdigest() == digest:
        return prepared.keep(place, start) or start()
    return start()


def gather_session(kind: str, dimensions: int, provider: str) -> Session:
    """Create a session that takes rows: x [r, ...] of any size, rows int64 [s] -> y [s, ...].

    Args:
        kind: of x, ``tensor(float)`` for example.
        dimensions: of x.
        provider: ``cuda``, say.

    Raises:
        ProviderError: the provider is not really there.
    """
    _, number = _TYPES[kind]
    _, whole = _TYPES["tensor(int64)"]
    facts = (number, dimensions)
    model = small_model("Gather", {"x": facts, "rows": (whole, 1)}, facts)
    name = "the gather of rows"
    return Session(open_session(model, name, provider, _options(1)), Path(name))


def memory_limit() -> int:
    """Return the bytes that all sessions together may take: 2 GiB and 0.5 GiB a core.

    The environment variable MRNN_MEMORY_MB says otherwise.

    Raises:
        UsageError: it is no whole number.
    """
    given = os.environ.get("MRNN_MEMORY_MB")
    if not given:
        return _MEMORY + _MEMORY_A_CORE * (os.cpu_count() or 1)
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not int(given):
        raise UsageError(f"MRNN_MEMORY_MB must be a number of megabytes, not {given!r:.60}")
    return int(given) << 20


@cache
def _limit_memory() -> None:
    """Bound what all sessions together may take for what they compute, once a process.

    A graph of a few hundred bytes can ask for a tensor of any size; it then fails instead.
    """
    ort = load_onnxruntime()
    arena, default = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    info = ort.OrtMemoryInfo("Cpu", arena, 0, default)
    limit = memory_limit()
    # Where the process has an allocator of its own already, that one stays.
    with suppress(RuntimeError):
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": limit}))


def _options(threads: int) -> Any:  # noqa: ANN401 - an onnxruntime.SessionOptions
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    # Left alone, ONNX Runtime looks at the affinity and not at a container's quota.
    options.intra_op_num_threads = threads or (cores() if _quota() else 0)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    _limit_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Spinning gains little on an idle machine, and cost up to 70 % on one with other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What matters becomes an exception; the rest would only mix with our own output.
    options.log_severity_level = 4
    return options


def _tensor(node: Any) -> TensorSpec:  # noqa: ANN401 - an onnxruntime.NodeArg
    shape = tuple(size if isinstance(size, int) else str(size or "?") for size in node.shape)
    dtype, _ = _TYPES.get(node.type, (node.type, 0))
    return TensorSpec(node.name, dtype, shape)
