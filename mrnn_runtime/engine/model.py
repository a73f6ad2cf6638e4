"""A bundle's graphs as an Encoder, a StepModel and, where there is one, a readout.

On the CPU and in float32, no result depends by a single bit on what else is in the batch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.tensors import same_tensors
from mrnn_runtime.engine.outputs import check_outputs
from mrnn_runtime.engine.prepared import WORTH
from mrnn_runtime.engine.providers import PROVIDERS, resolve
from mrnn_runtime.engine.sessions import make_session, memory_limit
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.types import EncodedImages, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.bundle.tensors import GraphSpec, TensorSpec
    from mrnn_runtime.engine.device import DeviceSession
    from mrnn_runtime.engine.sessions import Session
    from mrnn_runtime.types import SpecialTokens

_SIZES = (8, 4, 1)


def load_model(
    bundle: Bundle, provider: str = "auto", threads: int = 0
) -> tuple[OnnxEncoder, OnnxStepModel]:
    """Start the two graphs of a bundle, both on the same provider.

    Args:
        bundle: from ``load_bundle``.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; only ``auto`` may fall back.
        threads: CPU threads that share one run; 0 takes one a core.

    Raises:
        UsageError: there is no such provider.
        ProviderError: the provider is not really there.
        BundleError: a graph does not load, or is not the one that bundle.json describes.
    """
    word = resolve(provider)
    with ThreadPoolExecutor(1) as pool:  # ONNX Runtime releases the GIL while it prepares graphs
        encoder = pool.submit(OnnxEncoder, bundle, word, threads)
        model = OnnxStepModel(bundle, word, threads)
        return encoder.result(), model


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph that is ready to run, and what it is to give.

    Attributes:
        session: runs it.
        path: its file.
        outputs: what bundle.json says of its outputs, by name.
    """

    session: Session | DeviceSession
    path: Path
    outputs: Mapping[str, TensorSpec]

    def run(
        self,
        names: Sequence[str],
        feeds: Mapping[str, Any],
        *free: int,
        kept: Sequence[str] = (),
        ids_below: int = 0,
    ) -> dict[str, Any]:
        """Compute the outputs that are named; see ``Session.run`` and ``check_outputs``."""
        arrays = dict(zip(names, self.session.run(names, feeds, kept), strict=True))
        check_outputs(self.path, self.outputs, arrays, *free, ids_below=ids_below)
        return arrays


class OnnxEncoder:
    """The encoder's graph; fulfils ``Encoder``."""

    __slots__ = ("_graph", "_image", "_inputs")

    def __init__(self, bundle: Bundle, provider: str = "auto", threads: int = 0) -> None:
        """Start the graph; arguments and errors are those of ``load_model``."""
        self._graph = _start(bundle, bundle.encoder, provider, threads)
        (self._image,) = bundle.encoder.inputs
        starts = [state.init for state in bundle.state if state.init != "zeros"]
        self._inputs = (*bundle.image_inputs, *starts)

    @property
    def provider(self) -> str:
        """The execution provider that really runs, for example CPUExecutionProvider."""
        return self._graph.session.provider

    def encode(self, images: NDArray[np.uint8]) -> EncodedImages:
        """Encode images, uint8 [n, h, w, 3] RGB; n may be 0.

        Raises:
            UsageError: the images have another dtype or shape.
            BundleError: the graph fails, or gives something else than bundle.json says.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._image.shape[1:]:
            raise UsageError(
                f"the encoder takes {self._image}, not {images.dtype} {list(images.shape)}"
            )
        names = list(dict.fromkeys((*self._inputs, "reference_feature")))
        empty = {name: _zeros(self._graph.outputs[name], 0) for name in names}
        image = self._image.name
        parts = [self._graph.run(names, {image: piece}, len(piece)) for piece in _pieces(images)]
        arrays = {name: np.concatenate([part[name] for part in (empty, *parts)]) for name in names}
        return EncodedImages(
            inputs={name: arrays[name] for name in self._inputs},
            reference_feature=arrays["reference_feature"],
        )


@dataclass(frozen=True, slots=True)
class OnnxState:
    """What the cell takes beside the token, for r rows; fulfils ``State``.

    Attributes:
        arrays: by the cell's input, each [r, ...]: the image inputs and the recurrent states; on a
            GPU not arrays but DeviceRows.
    """

    arrays: Mapping[str, Any]

    def __len__(self) -> int:
        """Return r."""
        return len(next(iter(self.arrays.values())))

    def take(self, rows: NDArray[np.int64]) -> OnnxState:
        """Return the state of ``rows``, int64 [r'], in that order; any row any number of times.

        Raises:
            BundleError: it needs more memory than sessions may take.
        """
        if 0 < len(self) < len(rows):
            held = sum(getattr(array, "nbytes", 0) for array in self.arrays.values())
            if (size := held // len(self) * len(rows)) > memory_limit():
                raise BundleError(
                    f"the states of {len(rows)} hypotheses take {size >> 20} MB",
                    hint="take a smaller beam, or allow more memory: MRNN_MEMORY_MB=...",
                )
        return OnnxState({name: array.take(rows, axis=0) for name, array in self.arrays.items()})


class OnnxStepModel:
    """The cell's graph; fulfils ``StepModel``."""

    __slots__ = ("_after", "_bundle", "_graph", "_readout", "_specs", "_threads")

    def __init__(self, bundle: Bundle, provider: str = "auto", threads: int = 0) -> None:
        """Start the graph; arguments and errors are those of ``load_model``."""
        self._bundle = bundle
        self._threads = threads
        self._readout: OnnxReadout | None = None
        self._graph = _start(bundle, bundle.cell, provider, threads, keeps_rows=True)
        self._after = [state.output for state in bundle.state]
        self._specs = {tensor.name: tensor for tensor in bundle.cell.inputs}

    @property
    def provider(self) -> str:
        """The execution provider that really runs, for example CPUExecutionProvider."""
        return self._graph.session.provider

    @property
    def tokens(self) -> SpecialTokens:
        """The ids of pad, bos, eos and unk."""
        return self._bundle.tokens

    @property
    def vocabulary_size(self) -> int:
        """V, special tokens included."""
        return self._bundle.vocabulary_size

    @property
    def readout(self) -> OnnxReadout | None:
        """The bundle's readout, on the same provider and threads; None where it has none.

        Raises:
            BundleError: the graph does not load, or is not the one that bundle.json describes.
        """
        graph = self._bundle.readout
        if self._readout is None and graph is not None:  # started when it is asked for first
            word = next(word for word, name in PROVIDERS.items() if name == self.provider)
            self._readout = OnnxReadout(self._bundle, graph, word, self._threads)
        return self._readout

    def start_blank(self) -> OnnxState:
        """Return the state of one row whose image inputs are zero.

        Where there is a readout, the recurrent states that follow are those of any image.
        """
        names = [*self._bundle.image_inputs, *(state.input for state in self._bundle.state)]
        place = self._graph.session.place
        return OnnxState({name: place(_zeros(self._specs[name], 1)) for name in names})

    def start(self, images: EncodedImages) -> OnnxState:
        """Return the state before the start sign: one row an image, in order."""
        place = self._graph.session.place
        arrays = {name: place(images.inputs[name]) for name in self._bundle.image_inputs}
        for state in self._bundle.state:
            if state.init == "zeros":
                arrays[state.input] = place(_zeros(self._specs[state.input], len(images)))
            else:
                arrays[state.input] = place(images.inputs[state.init])
        return OnnxState(arrays)

    def step(
        self, tokens: NDArray[np.int64], state: OnnxState, top_k: int, *, full: bool = False
    ) -> tuple[Scores, OnnxState]:
        """Feed one token to each row.

        Args:
            tokens: int64 [r], the last token of each row (bos at first).
            state: what ``start`` or the step before returned, of r rows.
            top_k: how many of the best tokens to return; more than V is cut to V.
            full: whether ``Scores.log_probs`` is wanted as well.

        Returns:
            The scores of the next token, and the new state of the same r rows.

        Raises:
            UsageError: the tokens are not r ids of the vocabulary, or top_k is negative.
            BundleError: the graph fails, or gives something else than bundle.json says.
        """
        rows, k = len(tokens), min(top_k, self.vocabulary_size)
        self._check(tokens, state, k)
        if rows == 0:  # not every provider takes empty tensors
            return self._no_rows(k, full), state
        names = ["best_values", "best_ids"] if k else []
        names += ["log_probs", *self._after] if full else self._after
        feeds = {**state.arrays, "token": tokens, "k": np.array([k], np.int64)}
        computed = self._graph.run(
            names, feeds, rows, k, kept=self._after, ids_below=self.vocabulary_size
        )
        scores = Scores(
            ids=computed["best_ids"] if k else np.empty((rows, 0), np.int64),
            values=computed["best_values"] if k else np.empty((rows, 0), np.float32),
            log_probs=computed.get("log_probs"),
        )
        states = {spec.input: computed[spec.output] for spec in self._bundle.state}
        return scores, OnnxState({**state.arrays, **states})

    def _check(self, tokens: NDArray[np.int64], state: OnnxState, k: int) -> None:
        if k < 0:
            raise UsageError(f"top_k must not be negative, not {k}")
        if tokens.dtype != np.int64 or tokens.shape != (len(state),):
            raise UsageError(
                f"tokens must be int64 [{len(state)}], not {tokens.dtype} {list(tokens.shape)}"
            )
        # ONNX takes -1 for the last token. As an unsigned number it is one that is too large.
        highest = np.maximum.reduce(tokens.view(np.uint64), initial=0)
        if highest >= self.vocabulary_size:
            raise UsageError(f"tokens must be ids below {self.vocabulary_size}")

    def _no_rows(self, k: int, full: bool) -> Scores:
        return Scores(
            ids=np.empty((0, k), np.int64),
            values=np.empty((0, k), np.float32),
            log_probs=np.empty((0, self.vocabulary_size), np.float32) if full else None,
        )


class OnnxReadout:
    """The readout's graph: the upper half of the cell, for pairs of a prefix and an image.

    Its first input is the last token of each prefix, the state is what the cell made of it.
    """

    __slots__ = ("_bundle", "_graph", "_inputs")

    def __init__(
        self, bundle: Bundle, graph: GraphSpec, provider: str = "auto", threads: int = 0
    ) -> None:
        """Start the graph; arguments and errors are those of ``load_model``."""
        self._bundle = bundle
        self._graph = _start(bundle, graph, provider, threads)
        self._inputs = {tensor.name for tensor in graph.inputs}

    def states(self, state: OnnxState) -> dict[str, NDArray[Any]]:
        """Return the arrays of a state that the graph reads, each [t, ...]; no image inputs."""
        names = [spec.input for spec in self._bundle.state if spec.input in self._inputs]
        return {name: np.asarray(state.arrays[name]) for name in names}

    def log_probs(
        self,
        tokens: NDArray[np.int64],
        states: Mapping[str, NDArray[Any]],
        images: EncodedImages,
    ) -> NDArray[np.float32]:
        """Return the next token's distribution, float32 [t, n, V].

        Args:
            tokens: int64 [t], the last token of each prefix.
            states: from ``states``, after that token, each [t, ...].
            images: n images.

        Raises:
            BundleError: the graph fails, or gives something else than bundle.json says.
        """
        feeds = {name: images.inputs[name] for name in self._bundle.image_inputs}
        given = {**feeds, **states, "token": tokens}
        scores: NDArray[np.float32]
        scores = self._graph.run(["log_probs"], given, len(tokens), len(images))["log_probs"]
        return scores


def _pieces(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Cut images into pieces of few sizes.

    ONNX Runtime keeps memory for every shape that it has met, half a gigabyte of it where any
    number of images may come; and larger pieces gain nothing on a CPU.
    """
    start = 0
    for size in _SIZES:
        while len(images) - start >= size:
            yield images[start : start + size]
            start += size


def _start(
    bundle: Bundle, graph: GraphSpec, provider: str, threads: int, *, keeps_rows: bool = False
) -> _Graph:
    """Start a graph and hold it against what bundle.json says of it.

    Where ``keeps_rows`` says so, rows stay in the memory of a GPU from run to run.
    """
    path = bundle.file(graph.file)
    folder = PurePosixPath(graph.file).parent
    # External data are named from the graph's folder on.
    beside = [n for n in map(PurePosixPath, bundle.files) if n.is_relative_to(folder)]
    files = {name.relative_to(folder).as_posix() for name in beside}
    fact = bundle.files[graph.file]
    digest = fact.sha256 if fact.bytes >= WORTH else ""
    session = make_session(path, provider, threads, files=files, digest=digest)
    for kind, real, wanted in (
        ("inputs", session.inputs, graph.inputs),
        ("outputs", session.outputs, graph.outputs),
    ):
        if not same_tensors(real, wanted):
            raise BundleError(
                f"{path} has the {kind} {'; '.join(map(str, real))};"
                f" bundle.json says {'; '.join(map(str, wanted))}",
                hint="export the bundle again",
            )
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    if keeps_rows and session.provider != PROVIDERS["cpu"]:
        from mrnn_runtime.engine.device import DeviceSession

        return _Graph(DeviceSession(session, "cuda"), path, outputs)
    return _Graph(session, path, outputs)


def _zeros(tensor: TensorSpec, rows: int) -> NDArray[Any]:
    sizes = [size for size in tensor.shape[1:] if isinstance(size, int)]
    return np.zeros((rows, *sizes), tensor.dtype)
