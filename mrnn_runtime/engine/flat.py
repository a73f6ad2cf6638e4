"""A model that was flattened: one ONNX file with the whole search in it, and how it is checked.

The file says in its metadata what it is. Its golden vectors are there too: what it made of two
images that are drawn by rule, so that the file need not hold them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.engine.golden import TOLERANCES, GoldenReport
from mrnn_runtime.engine.onnx_wire import fields
from mrnn_runtime.engine.providers import PROVIDERS
from mrnn_runtime.engine.sessions import Session, make_session
from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

# Steps of the search at most, the one after the last word included.
MAX_STEPS = 64
GOLDEN = "mrnn.golden"
_RECORDED = ("token", "length", "log_prob", "score")
_HINT = "make it again with mrnn flatten"
# Numbers of fields in ONNX's messages.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 4, 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_TENSOR_NAME, _TENSOR_RAW = 8, 9


@dataclass(frozen=True, slots=True)
class FlatModel:
    """A flattened model that is ready to run.

    Attributes:
        session: image uint8 [n, h, w, 3] -> caption string [n, m, t], token int64 [n, m, t], length
            int64 [n, m], log_prob and score float32 [n, m], finished bool [n, m]; m captions of at
            most t words, best first.
        facts: the metadata of the file.
    """

    session: Session
    facts: Mapping[str, str]

    def record(self) -> dict[str, NDArray[Any]]:
        """Return what is made of the two golden images: token, length, log_prob and score."""
        (image,) = self.session.inputs
        _, height, width, _ = (size if isinstance(size, int) else 256 for size in image.shape)
        images = golden_images(height, width)
        return dict(zip(_RECORDED, self.session.run(_RECORDED, {image.name: images}), strict=True))

    def replay(self) -> GoldenReport:
        """Compute the golden vectors again and compare.

        ``caption`` in the report is the share of captions whose words are others.

        Raises:
            BundleError: the file has none.
        """
        try:
            golden = json.loads(self.facts[GOLDEN])
            recorded = {name: np.array(golden[name]) for name in _RECORDED}
            replayed = self.record()
            differences = {
                name: float(np.abs(recorded[name] - replayed[name]).max())
                for name in ("log_prob", "score")
            }
            same = (recorded["token"] == replayed["token"]).all(axis=-1)
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError(
                f"the golden vectors cannot be replayed: {error}", hint=_HINT
            ) from error
        differences["caption"] = float(np.mean(~same))
        on_cpu, elsewhere = TOLERANCES.get(self.facts.get("mrnn.precision", ""), TOLERANCES["int8"])
        here = self.session.provider == PROVIDERS["cpu"]
        return GoldenReport(differences, on_cpu if here else elsewhere)


def open_flat(path: Path, provider: str = "auto", threads: int = 0) -> FlatModel:
    """Start a file that ``mrnn flatten`` made.

    Args:
        path: the file.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; only ``auto`` may fall back.
        threads: CPU threads that share one run; 0 takes one a core.

    Raises:
        UsageError: there is no such provider.
        ProviderError: the provider is not really there.
        BundleError: it is no such file.
    """
    check_flat(path)
    session = make_session(path, provider, threads)
    facts = session.native.get_modelmeta().custom_metadata_map
    if "mrnn.format" not in facts:
        raise BundleError(f"{path} was not made by mrnn flatten", hint=_HINT)
    return FlatModel(session, facts)


def golden_images(height: int, width: int) -> NDArray[np.uint8]:
    """Return two images that are drawn by rule, uint8 [2, h, w, 3].

    The pixel of image i in row y, column x and channel c is (y (i + 1) + 2 x + 80 c) mod 256.
    """
    image, y, x, channel = np.ogrid[:2, :height, :width, :3]
    return ((y * (image + 1) + 2 * x + 80 * channel) % 256).astype(np.uint8)


def check_flat(path: Path) -> None:
    """Refuse a graph that need not end, as a bundle's are refused, but for one loop that does.

    Raises:
        BundleError: it has functions, foreign operators, a graph inside of a node that is no loop
            of at most ``MAX_STEPS`` steps, or the file is no ONNX file.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as model:
            complaint = next(_complaints(model), None)
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{path} does not load: it is no ONNX file", hint=_HINT) from error
    if complaint:
        raise BundleError(f"{path} has {complaint}, which may do harm", hint=_HINT)


def _complaints(model: mmap) -> Iterator[str]:
    steps: list[bytes] = []
    numbers: dict[bytes, int] = {}
    for field, *place in fields(model, 0, len(model)):
        if field == _MODEL_FUNCTIONS:
            yield "functions of its own"
        if field == _MODEL_GRAPH:
            for inner, *part in fields(model, *place):
                if inner == _GRAPH_NODE:
                    yield from _of_node(model, *part, steps=steps)
                if inner == _GRAPH_INITIALIZER:
                    facts = {kind: model[a:b] for kind, a, b in fields(model, *part) if b - a < 999}
                    raw = facts.get(_TENSOR_RAW, b"")
                    if len(raw) == 8:
                        numbers[facts.get(_TENSOR_NAME, b"")] = int.from_bytes(raw, "little")
    if len(steps) > 1:
        yield f"{len(steps)} loops"
    if any(numbers.get(name, MAX_STEPS + 1) > MAX_STEPS for name in steps):
        yield f"a loop that is not known to end after {MAX_STEPS} steps"


def _of_node(
    model: mmap, start: int, stop: int, *, steps: list[bytes] | None = None
) -> Iterator[str]:
    """Yield what is wrong with a node; a loop adds the name of its number of steps to ``steps``."""
    operator, inputs, bodies = b"", [], []
    for field, first, last in fields(model, start, stop):
        if field == _NODE_INPUT:
            inputs.append(model[first:last])
        if field == _NODE_OP:
            operator = model[first:last]
        if field == _NODE_DOMAIN and model[first:last] not in (b"", b"ai.onnx"):
            yield f"an operator of {model[first:last]!r:.60}"
        if field == _NODE_ATTRIBUTE:
            bodies += [
                (a, b)
                for inner, a, b in fields(model, first, last)
                if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
            ]
    if bodies and (operator != b"Loop" or steps is None or len(bodies) > 1 or not inputs):
        yield "a graph inside of a node"
    for body in bodies:
        if steps is not None:
            steps.append(inputs[0])
        for inner, *node in fields(model, *body):
            if inner == _GRAPH_NODE:
                yield from _of_node(model, *node)
