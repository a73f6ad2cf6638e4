"""The tensors of a bundle's graphs: what ``bundle.json`` says of them, and which fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mrnn_runtime.bundle.fields import Fields

DTYPES = ("bool", "float16", "float32", "float64", "int32", "int64", "int8", "uint8")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a graph.

    Attributes:
        name: its name in the graph.
        dtype: numpy's name of its type, for example ``float32``.
        shape: its dimensions; a text stands for a free one.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        """Write it as the docstrings do, for example ``image_term float32 [n, 512]``."""
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """An ONNX file and the tensors that go in and out."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One recurrent state of the cell.

    Attributes:
        input: the cell's input that takes it.
        output: the cell's output that hands on the next one.
        init: ``zeros``, or the encoder's output that it starts from.
    """

    input: str
    output: str
    init: str


def read_graph(node: Fields) -> GraphSpec:
    """Read what bundle.json says of a graph.

    Raises:
        BundleError: a field is missing or wrong.
    """
    return GraphSpec(node.text("file"), _tensors(node, "inputs"), _tensors(node, "outputs"))


def _tensors(node: Fields, key: str) -> tuple[TensorSpec, ...]:
    specs = tuple(map(_tensor, node.each(key)))
    if len({spec.name for spec in specs}) < len(specs):
        raise node.wrong(key, "names a tensor twice")
    return specs


def _tensor(node: Fields) -> TensorSpec:
    dtype = node.text("dtype")
    if dtype not in DTYPES:
        raise node.wrong("dtype", f"must be one of {', '.join(DTYPES)}, not {dtype}")
    shape = node.take("shape", list, "a list")
    if not all((type(d) is int and d > 0) or (isinstance(d, str) and d) for d in shape):
        raise node.wrong("shape", "must hold positive numbers, and names for free dimensions")
    return TensorSpec(node.text("name"), dtype, tuple(shape))


def fits(source: TensorSpec, sink: TensorSpec) -> bool:
    """Tell whether the one can be fed as the other: same dtype, any number of equal rows."""
    match (source.shape, sink.shape):
        case ((str(), *one), (str(), *other)):
            sizes_fit = one == other and all(isinstance(size, int) for size in one)
            return sizes_fit and source.dtype == sink.dtype
    return False


def same_tensors(some: Iterable[TensorSpec], others: Iterable[TensorSpec]) -> bool:
    """Tell whether two lists describe the same tensors, whatever free dimensions are called."""
    return sorted(map(_anonymous, some)) == sorted(map(_anonymous, others))


def _anonymous(tensor: TensorSpec) -> tuple[str, str, list[int]]:
    return tensor.name, tensor.dtype, [d if isinstance(d, int) else 0 for d in tensor.shape]
