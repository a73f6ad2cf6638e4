"""What a plugin must look like. Protocols, not base classes: nothing here must be imported.

Letters in shapes: n images, r rows (images times beams), h/w pixels, V vocabulary, k best.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from mrnn_runtime.errors import MrnnError, PluginError, describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mrnn_runtime.types import (
        Candidate,
        DecodeOptions,
        EncodedImages,
        Neighbour,
        Preprocess,
        Scores,
        SpecialTokens,
    )


@dataclass(frozen=True, slots=True)
class Component:
    """A name and where to find what it stands for.

    The target is a string, so registering a component imports nothing; it is loaded when somebody
    asks for it by name.

    Attributes:
        name: what users type, for example ``beam``.
        target: ``package.module:attribute``, a callable.
        summary: one line for ``mrnn plugins``.

    Raises:
        PluginError: the name or the target is malformed.
    """

    name: str
    target: str
    summary: str

    def __post_init__(self) -> None:
        """Refuse a name that cannot be typed and a target that cannot be imported."""
        if not self.name or any(c.isspace() or c in "/\\," for c in self.name):
            raise PluginError(f"component name {self.name!r} must be one word without / \\ or ,")
        module, _, attribute = self.target.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            raise PluginError(
                f"component {self.name!r} has target {self.target!r}",
                hint="write it as package.module:callable",
            )

    def load(self) -> Any:  # noqa: ANN401 - each hook says what its target must be
        """Import the target and return it.

        Raises:
            PluginError: the module does not import, or has no such attribute or none to call.
        """
        module, _, attribute = self.target.partition(":")
        try:
            loaded: Any = importlib.import_module(module)
            for part in attribute.split("."):
                loaded = getattr(loaded, part)
        except (Exception, SystemExit) as error:  # some packages exit at import
            raise PluginError(
                f"{self.name!r}: cannot load {self.target}: {type(error).__name__}: {error}",
                hint="reinstall the package that provides it, or its missing dependency",
            ) from error
        if not callable(loaded):
            raise PluginError(f"{self.name!r}: {self.target} cannot be called")
        return loaded


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever a plugin raises, beside our own errors, into a PluginError that names it."""
    try:
        yield
    except MrnnError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} failed: {describe(error)}",
            hint="report it to the author of the plugin; mrnn plugins says who that is",
        ) from error


class Encoder(Protocol):
    """Images in, what the cell wants to know about them out."""

    @property
    def provider(self) -> str:
        """The execution provider that really runs, for example CPUExecutionProvider."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> EncodedImages:
        """Encode images, uint8 [n, h, w, 3] RGB; n may be 0."""
        ...


class State(Protocol):
    """What a step model remembers of r rows; opaque to decoders."""

    def __len__(self) -> int:
        """Return r."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the state of ``rows``, int64 [r'], in that order; any row, any number of times."""
        ...


class StepModel(Protocol):
    """One step of the language half: the next word's distribution, and the state after it."""

    @property
    def tokens(self) -> SpecialTokens:
        """The ids of pad, bos, eos and unk."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """V, special tokens included."""
        ...

    def start(self, images: EncodedImages) -> State:
        """Return the state before the start sign: one row an image, in order."""
        ...

    def step(
        self,
        tokens: NDArray[np.int64],
        state: Any,  # noqa: ANN401 - what start() returned, whatever it is
        top_k: int,
        *,
        full: bool = False,
    ) -> tuple[Scores, Any]:
        """Feed one token to each row.

        Args:
            tokens: int64 [r], the last token of each row (bos at first).
            state: what start() or the step before returned, of r rows.
            top_k: how many of the best tokens to return, 0..V; more than V is cut to V.
            full: whether Scores.log_probs is wanted as well.

        Returns:
            The scores of the next token, and the new state of the same r rows.
        """
        ...


@runtime_checkable
class Decoder(Protocol):
    """A search for good captions; an image's result does not depend on its neighbours.

    One object decodes several batches at a time, in threads: it keeps nothing between two calls.
    """

    def decode(
        self, model: StepModel, images: EncodedImages, options: DecodeOptions
    ) -> list[list[Candidate]]:
        """Return per image at least one and at most options.n_best candidates, best first."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """An opinion on candidates, knowing the images.

    One object scores several batches at a time, in threads: what it keeps, it does not change.
    """

    def score(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        """Return one finite float per candidate, higher is better; the captioner sorts by it."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """What a reranker may offer beside its scores."""

    def explain(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> tuple[list[list[float]], list[list[Neighbour]]]:
        """Return what ``score`` returns, and per image the reference images that have a vote.

        The nearest come first.
        """
        ...


class Backbone(Protocol):
    """A CNN for the exporters. The runtime never sees one; it runs the graph that came of it."""

    @property
    def module(self) -> Any:  # noqa: ANN401 - a torch.nn.Module, and torch is not a dependency here
        """A torch module in eval mode: uint8 [n, h, w, 3] RGB -> float32 [n, feature_size]."""
        ...

    @property
    def feature_size(self) -> int:
        """The width of the feature."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """The input size and the resize rule that the weights were made for."""
        ...

    @property
    def weights_id(self) -> str:
        """A short text that changes when the weights do; part of the feature cache's key."""
        ...
