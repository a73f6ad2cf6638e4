"""The nets of the paper, of its ablations and of the methods that it compares itself with.

All are one module, :class:`CaptionNet`, built from the same layers: word embedding, recurrence,
multimodal layer, softmax. What differs is which of them are there and where the image enters;
``cells.py`` names the combinations.

What depends on the photo alone is computed once per photo, in the encoder graph; what depends on
the token alone is a table in the exported step (:class:`FoldedStep`).

Letters in shapes: b sentences, s tokens of a packed batch, r rows, d image feature, e embedding,
q recurrent size, g gates, m multimodal size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from mrnn_exporters.recurrences import StateTensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mrnn_exporters.recurrences import Recurrence

__all__ = ["CaptionNet", "Cell", "FoldedStep", "NetConfig", "Separable", "StateTensor", "pack"]

Route = Literal["multimodal", "every", "start", "before"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """Sizes of a net. 0 takes the cell's own; the m-RNN's own are the paper's.

    Attributes:
        vocabulary_size: V, special tokens included.
        feature_size: d, the width of the CNN feature.
        embedding: width of word embedding I.
        word: width of word embedding II, w(t).
        recurrent: q.
        multimodal: m.
        dropout: share of units dropped while training, on w(t), r(t), m(t) and the image feature.
    """

    vocabulary_size: int
    feature_size: int
    embedding: int = 0
    word: int = 0
    recurrent: int = 0
    multimodal: int = 0
    dropout: float = 0.5

    def sized(
        self, *, embedding: int = 128, word: int = 256, recurrent: int = 256, multimodal: int = 512
    ) -> NetConfig:
        """Fill in the sizes that are 0."""
        return replace(
            self,
            embedding=self.embedding or embedding,
            word=self.word or word,
            recurrent=self.recurrent or recurrent,
            multimodal=self.multimodal or multimodal,
        )


class Cell(Protocol):
    """A torch module that the trainer trains and the exporter exports."""

    def eval(self) -> Self:
        """As torch.nn.Module has it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As torch.nn.Module has it."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """As torch.nn.Module has it."""
        ...

    @property
    def image_inputs(self) -> tuple[str, ...]:
        """Names of the image inputs that :meth:`step` takes, in order."""
        ...

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The recurrent state, in order."""
        ...

    def __call__(self, tokens: PackedSequence, features: Tensor) -> Tensor:
        """Teacher forcing: tokens int64 packed [s], features [b, d] -> logits [s, V], packed."""
        ...

    def encode(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [n, d] -> each image input, then each state that starts from the image.

        [n, ...] each, float32. Part of the encoder graph.
        """
        ...

    def reference(self, features: Tensor) -> Tensor:
        """Features [n, d] -> where neighbours are looked for, [n, m]: the paper's g2(V_I I)."""
        ...

    def step(self) -> nn.Module:
        """A module: (token int64 [r], *image inputs, *state) -> (logits [r, V], *state)."""
        ...


@runtime_checkable
class Separable(Protocol):
    """What a cell may offer beside, where its recurrence never sees the image."""

    def readout(self) -> nn.Module | None:
        """A module for any t prefixes and n images, or None where the recurrence sees the image.

        (token int64 [t], *state after that token, [t, ...] each, *image inputs, [n, ...] each) ->
        logits [t, n, V].
        """
        ...


def g2(x: Tensor) -> Tensor:
    """Scale a hyperbolic tangent as the paper does: 1.7159 tanh(2 x / 3)."""
    return 1.7159 * torch.tanh(x * (2.0 / 3.0))


def unit_rms(features: Tensor) -> Tensor:
    """Scale each feature, float32 [n, d], to root mean square 1."""
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + 1e-8)


class CaptionNet(nn.Module):
    """Words through a recurrence, an image by one or two routes, a softmax over the next word.

    w(t) = W E[token] + b, or E[token] where there is one embedding layer only;
    r(t) = recurrence(w(t), r(t-1));
    m(t) = g2(V_w w(t) + V_r r(t) + V_I I), or r(t) where there is no multimodal layer;
    y(t) = softmax(V m(t) + b), V = E A where it is tied to the embedding.
    """

    def __init__(
        self,
        config: NetConfig,
        recurrence: Recurrence,
        *,
        image: Sequence[Route] = (),
        multimodal: bool = True,
        layers: Literal[1, 2] = 2,
        word_input: Literal[0, 1, 2] = 2,
        shared: bool = False,
        tied: bool = False,
    ) -> None:
        """Build the layers.

        Args:
            config: sizes, none 0.
            recurrence: the recurrent layer.
            image: where the image enters: the ``multimodal`` layer at every step, the recurrence
                at ``every`` step or at the ``start`` step only, or in a step of its own ``before``.
            multimodal: whether there is a multimodal layer.
            layers: of word embedding; with one, E has the width of w(t).
            word_input: which embedding enters the multimodal layer: I, II or (0) none.
            shared: the multimodal layer sees the projection of the image that the recurrence has.
            tied: the output matrix is the embedding's, behind a linear map A from m to e.
        """
        super().__init__()
        self.config = config
        self.recurrence = recurrence
        self.image = frozenset(image)
        first = config.embedding if layers == 2 else config.word
        self.embedding = nn.Embedding(config.vocabulary_size, first)
        nn.init.normal_(self.embedding.weight, std=first**-0.5)
        self.word = nn.Linear(first, config.word) if layers == 2 else nn.Identity()
        if self.image - {"multimodal"}:
            self.drive = nn.Linear(config.feature_size, config.word, bias=False)
        top = config.recurrent
        self.word_input = word_input if multimodal else 0
        self.multimodal = multimodal
        self.shared = shared
        if multimodal:
            top = config.multimodal
            if word_input:
                self.from_word = nn.Linear(config.word if word_input == 2 else first, top)
            self.from_recurrent = nn.Linear(config.recurrent, top, bias=word_input == 0)
            if "multimodal" in self.image:
                seen = config.word if shared else config.feature_size
                self.from_image = nn.Linear(seen, top, bias=False)
        self.tied = tied
        if tied:
            self.output = nn.Linear(top, first, bias=False)
            self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        else:
            self.output = nn.Linear(top, config.vocabulary_size)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def image_inputs(self) -> tuple[str, ...]:
        """Names of the image inputs that the step takes."""
        names = {"multimodal": "image_term", "every": "image_drive"}
        return tuple(name for route, name in names.items() if route in self.image)

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The recurrence's state, and the image's part in the first step where there is one."""
        if "before" in self.image:
            return tuple(
                StateTensor(t.name, t.size, f"first_{t.name}") for t in self.recurrence.state
            )
        if "start" in self.image:
            width = self.recurrence.gates(torch.zeros(1, self.config.word)).shape[1]
            return (*self.recurrence.state, StateTensor("drive", width, "image_drive"))
        return self.recurrence.state

    def forward(self, tokens: PackedSequence, features: Tensor) -> Tensor:
        """Teacher forcing: tokens int64 packed [s], features [b, d] -> logits [s, V], packed."""
        sizes = tokens.batch_sizes.tolist()
        embedded = self.embedding(tokens.data)
        word = self.dropout(self.word(embedded))
        image = self.dropout(unit_rms(features))
        state = tuple(word.new_zeros(sizes[0], t.size) for t in self.recurrence.state)
        taken = word
        if "every" in self.image:
            taken = word + _spread(self.drive(image), sizes)
        elif "start" in self.image:
            taken = torch.cat([word[: sizes[0]] + self.drive(image), word[sizes[0] :]])
        elif "before" in self.image:
            state = self.recurrence.advance(self.recurrence.gates(self.drive(image)), state)
        hidden = []
        gates = torch.split(self.recurrence.gates(taken), sizes)
        for size, gate in zip(sizes, gates, strict=True):
            state = self.recurrence.advance(gate, tuple(tensor[:size] for tensor in state))
            hidden.append(state[0])
        top = self.dropout(torch.cat(hidden))
        if self.multimodal:
            total = self.from_recurrent(top)
            if self.word_input:
                total = total + self.from_word(word if self.word_input == 2 else embedded)
            if "multimodal" in self.image:
                seen = self.drive(image) if self.shared else image
                total = total + _spread(self.from_image(seen), sizes)
            top = self.dropout(g2(total))
        top = self.output(top)
        return functional.linear(top, self.embedding.weight, self.bias) if self.tied else top

    def encode(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [n, d] -> image_term [n, m] = 2/3 V_I I, image_drive [n, g], first states.

        Each only where the net has it; image_drive is the image's part in the gates.
        """
        image = unit_rms(features)
        encoded: list[Tensor] = []
        if "multimodal" in self.image:
            seen = self.drive(image) if self.shared else image
            encoded.append(self.from_image(seen) * (2.0 / 3.0))
        if self.image & {"every", "start"}:
            drive = self.drive(image)
            bias = self.recurrence.gates(torch.zeros_like(drive))
            encoded.append(self.recurrence.gates(drive) - bias)
        if "before" in self.image:
            # One row for all: a traced graph would keep the number of rows that it saw.
            zeros = tuple(image.new_zeros(1, t.size) for t in self.recurrence.state)
            encoded += self.recurrence.advance(self.recurrence.gates(self.drive(image)), zeros)
        return tuple(encoded)

    def reference(self, features: Tensor) -> Tensor:
        """Features [n, d] -> g2(V_I I), [n, m]; the feature itself where there is no V_I."""
        image = unit_rms(features)
        if "multimodal" in self.image and not self.shared:
            return g2(self.from_image(image))
        return image

    def step(self) -> nn.Module:
        """The folded step of these weights; see :class:`FoldedStep`."""
        return FoldedStep(self)

    def readout(self) -> nn.Module | None:
        """The folded step above the recurrence; None where the recurrence sees the image."""
        return FoldedReadout(FoldedStep(self)) if self.image == {"multimodal"} else None


class FoldedStep(nn.Module):
    """One step: what depends on the token alone is a table, g2's constants are in the weights.

    u(t) = tanh(table[token] + (2/3 V_r) r(t) + image_term); logits = (1.7159 V) u(t) + b.
    """

    def __init__(self, net: CaptionNet) -> None:
        """Fold the weights of ``net``; the result shares none with it but the recurrence's."""
        super().__init__()
        self.recurrence = net.recurrence
        self.states = len(net.recurrence.state)
        self.image = net.image
        self.multimodal = net.multimodal
        with torch.no_grad():
            embedded = net.embedding.weight
            word = net.word(embedded)
            parts = [net.recurrence.gates(word)]
            matrix = embedded @ net.output.weight if net.tied else net.output.weight
            if net.multimodal:
                width = net.config.multimodal
                if net.word_input:
                    total = net.from_word(word if net.word_input == 2 else embedded)
                else:
                    total = net.from_recurrent.bias.expand(len(embedded), width)
                parts.append((2.0 / 3.0) * total)
                self.from_recurrent = nn.Parameter(net.from_recurrent.weight * (2.0 / 3.0))
                matrix = matrix * 1.7159
            self.split = [part.shape[1] for part in parts]
            self.table = nn.Parameter(torch.cat(parts, dim=1), requires_grad=False)
            self.output = nn.Parameter(matrix.clone())
            self.bias = nn.Parameter((net.bias if net.tied else net.output.bias).clone())

    def forward(self, token: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Token int64 [r], image inputs, state -> (logits [r, V], *state)."""
        inputs = list(rest)
        gates, *word = torch.split(functional.embedding(token, self.table), self.split, dim=1)
        term = inputs.pop(0) if "multimodal" in self.image else None
        if "every" in self.image:
            gates = gates + inputs.pop(0)
        if "start" in self.image:
            gates = gates + inputs[-1]
        after = self.recurrence.advance(gates, tuple(inputs[: self.states]))
        top = after[0]
        if self.multimodal:
            total = word[0] + functional.linear(top, self.from_recurrent)
            top = torch.tanh(total if term is None else total + term)
        if "start" in self.image:
            after = (*after, torch.zeros_like(inputs[-1]))
        return (functional.linear(top, self.output, self.bias), *after)


class FoldedReadout(nn.Module):
    """The part of a folded step that sees the image, for all pairs of prefix and image.

    u(t) = tanh(table[token] + (2/3 V_r) r(t) + image_term); logits = (1.7159 V) u(t) + b.
    """

    def __init__(self, step: FoldedStep) -> None:
        """Share the weights of ``step``."""
        super().__init__()
        self.table, self.split = step.table, step.split
        self.from_recurrent = step.from_recurrent
        self.output, self.bias = step.output, step.bias

    def forward(self, token: Tensor, *rest: Tensor) -> Tensor:
        """Token int64 [t], state after it, image_term [n, m] -> logits [t, n, V]."""
        top, term = rest[0], rest[-1]
        _, word = torch.split(functional.embedding(token, self.table), self.split, dim=1)
        total = word + functional.linear(top, self.from_recurrent)
        top = torch.tanh(total.unsqueeze(1) + term)
        # As one matrix, which is one product; the product of a stack of them is slower.
        logits = functional.linear(top.flatten(0, 1), self.output, self.bias)
        return logits.reshape(token.shape[0], term.shape[0], -1)


def _spread(image: Tensor, sizes: Sequence[int]) -> Tensor:
    """Give each token of a packed batch its photo's row: [b, x] -> [s, x]."""
    return torch.cat([image[:size] for size in sizes])


def pack(sentences: Sequence[Sequence[int]]) -> PackedSequence:
    """Pack token ids, longest sentence first: all first tokens, then all second ones, ..."""
    return nn.utils.rnn.pack_sequence([torch.tensor(sentence) for sentence in sentences])
