"""Execution providers: the one that was named really runs, or it is an error that says what to do.

ONNX Runtime promises less. Its GPU wheel without CUDA libraries lists CUDA, creates the session on
the CPU and raises nothing; with both wheels installed the last one wins; uninstalling one of them
leaves an empty module. So what counts here is what a session says after it was created. Only
``auto`` may settle for the CPU, and it says so where a GPU was to be expected.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import logging
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mrnn_runtime.errors import BundleError, ProviderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# With TF32, its default, CUDA keeps ten bits of each factor, and captions differ from the CPU's.
_CUDA_OPTIONS = {"use_tf32": "0"}
_BOTH_WHEELS = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of "
_EXTRAS = '"mrnn-runtime[cpu]" and "mrnn-runtime[gpu]"'

# What ONNX Runtime's Python code prints in this thread while a session is created.
_printed = threading.local()

_log = logging.getLogger("mrnn_runtime")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of trying a provider.

    Attributes:
        word: ``cpu``, ``cuda`` or ``tensorrt``.
        listed: whether ONNX Runtime says that it has it; that alone means little.
        works: whether a tiny model ran on it.
        detail: what is wrong and how to fix it; empty where it works.
    """

    word: str
    listed: bool
    works: bool
    detail: str


def resolve(word: str) -> str:
    """Turn ``auto`` into the provider to use, and check any other word.

    Raises:
        UsageError: there is no such word.
        ProviderError: the word is ``auto``, and ONNX Runtime is not there at all.
    """
    if word == "auto":
        return _best()
    words = ("auto", *PROVIDERS)
    if word not in words:
        close = difflib.get_close_matches(word.lower(), words, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(words)}"
        raise UsageError(f"unknown provider {word!r}", hint=hint)
    return word


@cache
def _best() -> str:
    """Return ``cuda`` where it works, else ``cpu``; cached, so that the warning comes once."""
    if PROVIDERS["cuda"] in load_onnxruntime().get_available_providers():
        probed = probe("cuda")
        if probed.works:
            return "cuda"
        _log.warning("running on the CPU, because CUDA does not work: %s", probed.detail)
    elif _is_installed("onnxruntime-gpu"):
        _log.warning("running on the CPU, although onnxruntime-gpu is installed: %s", _advice())
    return "cpu"


def probe(word: str) -> ProbeResult:
    """Run a tiny model on a provider: neither its being listed nor a session on it proves much.

    Args:
        word: ``cpu``, ``cuda`` or ``tensorrt``.
    """
    import numpy as np

    listed = False
    try:
        ort = load_onnxruntime()
        listed = PROVIDERS[word] in ort.get_available_providers()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = _create(small_model("Add", {"x": (1, 1), "z": (1, 1)}, (1, 1)), word, options)
        one = np.ones(1, np.float32)
        (result,) = session.run(["y"], {"x": one, "z": one})
    except ProviderError as error:
        return ProbeResult(word, listed, False, str(error))
    except Exception as error:  # the exceptions of ONNX Runtime share no base
        return ProbeResult(word, listed, False, one_line(error))
    works = bool(result[0] == 2)
    return ProbeResult(word, listed, works, "" if works else f"1 + 1 is {result[0]} on it")


def open_session(model: bytes, name: str, word: str, options: Any) -> Any:  # noqa: ANN401
    """Create a session that runs on the named provider and falls back to nothing.

    Args:
        model: the content of an ONNX file.
        name: what errors call it.
        word: ``cpu``, ``cuda`` or ``tensorrt``.
        options: an ``onnxruntime.SessionOptions``.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        ProviderError: ONNX Runtime or the provider is not really there.
        BundleError: the provider works, but not with this model.
    """
    try:
        return _create(model, word, options)
    except ProviderError:
        raise
    except Exception as error:
        probed = probe(word)
        if not probed.works:
            raise ProviderError(f"{word} does not work: {probed.detail}") from error
        raise BundleError(
            f"{name} does not load on {word}: {one_line(error)}",
            hint="export the bundle again, or upgrade ONNX Runtime",
        ) from error


def load_onnxruntime() -> Any:  # noqa: ANN401 - a module without type hints
    """Import ONNX Runtime.

    Raises:
        ProviderError: it is not installed, or what is installed does not work.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ProviderError("ONNX Runtime is not installed", hint=f"pip install one of {_EXTRAS}")
    # Otherwise its wheel for Linux keeps a number of this machine, and reports to its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except Exception as error:
        raise ProviderError(
            f"ONNX Runtime does not load: {one_line(error)}",
            hint=f"{_BOTH_WHEELS}{_EXTRAS}; on Windows it needs the Visual C++ runtime too",
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise ProviderError(
            "ONNX Runtime is an empty folder: two of its wheels were installed, and one removed",
            hint=f"{_BOTH_WHEELS}{_EXTRAS}",
        )
    return onnxruntime


def wheels() -> tuple[str, ...]:
    """Return the names of the installed distributions that bring ``import onnxruntime``."""
    return tuple(sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ()))))


def one_line(error: object) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _create(model: bytes, word: str, options: Any) -> Any:  # noqa: ANN401
    """Create a session and make sure of its provider; what ONNX Runtime raises passes through."""
    ort = load_onnxruntime()
    name = PROVIDERS[word]
    if name not in ort.get_available_providers():
        raise ProviderError(f"{name} is not in the ONNX Runtime that is installed", hint=_advice())
    stack: list[Any] = [name]
    match word:
        case "cuda":
            stack = [(name, _CUDA_OPTIONS)]
        case "tensorrt":
            stack = [(name, _tensorrt_options()), (PROVIDERS["cuda"], _CUDA_OPTIONS)]
    if word != "cpu":
        stack.append(PROVIDERS["cpu"])
    with _prints_of(ort) as complaints:
        if word != "cpu":
            _preload(ort, complaints)
        session = ort.InferenceSession(
            model, sess_options=options, providers=stack, enable_fallback=0
        )
    session.disable_fallback()
    real = session.get_providers()[0]
    if real != name:
        said = " ".join(complaints)
        raise ProviderError(
            f"{name} did not come up, ONNX Runtime took {real}"
            + (f" and said: {one_line(said)}" if said else ""),
            hint="see what nvidia-smi says of the driver, and install the libraries: "
            + ("TensorRT and " if word == "tensorrt" else "")
            + 'pip install "onnxruntime-gpu[cuda,cudnn]"',
        )
    return session


@contextmanager
def _prints_of(ort: Any) -> Iterator[list[str]]:  # noqa: ANN401
    """Collect what ONNX Runtime prints to stdout, which is for results; nobody else is affected.

    Its modules get a ``print`` of their own, which passes on what other threads print.
    """

    def divert(*parts: object, **options: Any) -> None:  # noqa: ANN401
        lines = getattr(_printed, "lines", None)
        if lines is None:
            print(*parts, **options)
        else:
            lines.append(" ".join(map(str, parts)))

    for module in {ort, sys.modules.get(ort.InferenceSession.__module__, ort)}:
        vars(module).setdefault("print", divert)
    _printed.lines = []
    try:
        yield _printed.lines
    finally:
        _printed.lines = None


def _preload(ort: Any, complaints: list[str]) -> None:  # noqa: ANN401
    """Load the CUDA libraries that were installed as Python packages."""
    if hasattr(ort, "preload_dlls"):
        try:
            ort.preload_dlls()
        except Exception as error:  # libraries found elsewhere may do; the session will tell
            complaints.append(str(error))


def _tensorrt_options() -> dict[str, str]:
    """Keep engines, which take minutes to build, where MRNN_TENSORRT_CACHE says, if it does."""
    folder = os.environ.get("MRNN_TENSORRT_CACHE")
    if not folder:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _advice() -> str:
    """Say how to get a provider that ONNX Runtime does not list."""
    installed = wheels()
    if len(installed) > 1:
        return f"{' and '.join(installed)} overwrite each other: {_BOTH_WHEELS}{_EXTRAS}"
    if installed == ("onnxruntime",):
        return (
            "onnxruntime is the CPU wheel: pip uninstall -y onnxruntime, then"
            ' pip install "mrnn-runtime[gpu]"'
        )
    return f"reinstall it: {_BOTH_WHEELS}{_EXTRAS}"


def small_model(op: str, inputs: Mapping[str, tuple[int, int]], output: tuple[int, int]) -> bytes:
    """Return an ONNX model of one node, encoded by hand: onnx is no dependency.

    A protobuf message is a row of fields, each a key (number << 3 | kind) and a value; a value of
    kind 2 (a text or a message) has its length in front, one of kind 0 (a small number) is a byte.

    Args:
        op: what the node computes, as it is without attributes.
        inputs: by name the type of the elements, as ONNX numbers it, and the number of dimensions.
        output: the same of the output, whose name is y.
    """

    def number(field: int, value: int) -> bytes:
        return bytes((field << 3, value))

    def part(field: int, value: bytes) -> bytes:
        size = len(value)
        length = bytes((size,)) if size < 128 else bytes((size % 128 | 128, size // 128))
        return bytes((field << 3 | 2,)) + length + value

    def tensor(name: str, element: int, dimensions: int) -> bytes:
        shape = b"".join(part(1, part(2, f"{name}{i}".encode())) for i in range(dimensions))
        return part(1, name.encode()) + part(2, part(1, number(1, element) + part(2, shape)))

    node = b"".join(part(1, name.encode()) for name in inputs) + part(2, b"y")
    graph = part(1, node + part(4, op.encode())) + part(2, b"small")
    graph += b"".join(part(11, tensor(name, *facts)) for name, facts in inputs.items())
    graph += part(12, tensor("y", *output))
    return number(1, 8) + part(7, graph) + part(8, number(2, 14))  # ir_version, opset_import
