"""The m-RNN of Mao et al. (ICLR 2015), and the contract that every cell of the trainer fulfils.

Five layers a time step: word embedding I and II, recurrent, multimodal, softmax. The image enters
the multimodal layer only, so everything that depends on the photo alone (V_I I) is computed once
per photo, in the encoder graph, and everything that depends on the token alone is a table look-up
in the exported step (:meth:`MultimodalNet.step`).

Letters in shapes: b sentences, s tokens of a packed batch, r rows, d image feature, e embedding, q
recurrent size, m multimodal size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """Sizes of a net; the defaults are the paper's.

    Attributes:
        vocabulary_size: V, special tokens included.
        feature_size: d, the width of the CNN feature.
        embedding: width of word embedding I.
        word: width of word embedding II, w(t).
        recurrent: q; the plain recurrence needs it equal to ``word``.
        multimodal: m.
        dropout: share of units dropped while training, on w(t), r(t), m(t) and the image feature.
    """

    vocabulary_size: int
    feature_size: int
    embedding: int = 128
    word: int = 256
    recurrent: int = 256
    multimodal: int = 512
    dropout: float = 0.5


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One array that a cell carries from step to step, float32 [r, size]; zeros at the start."""

    name: str
    size: int


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
        """Names of what :meth:`encode` returns and :meth:`StepModule` takes, in order."""
        ...

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The recurrent state, in order."""
        ...

    def __call__(self, tokens: PackedSequence, features: Tensor) -> Tensor:
        """Teacher forcing: tokens int64 packed [s], features [b, d] -> logits [s, V], packed."""
        ...

    def encode(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [n, d] -> each image input, [n, ...], float32. Part of the encoder graph."""
        ...

    def reference(self, features: Tensor) -> Tensor:
        """Features [n, d] -> where neighbours are looked for, [n, m]: the paper's g2(V_I I)."""
        ...

    def step(self) -> nn.Module:
        """A module: (token int64 [r], *image inputs, *state) -> (logits [r, V], *state)."""
        ...


def g2(x: Tensor) -> Tensor:
    """Scale a hyperbolic tangent as the paper does: 1.7159 tanh(2 x / 3)."""
    return 1.7159 * torch.tanh(x * (2.0 / 3.0))


def unit_rms(features: Tensor) -> Tensor:
    """Scale each feature, float32 [n, d], to root mean square 1."""
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + 1e-8)


class PlainRecurrence(nn.Module):
    """The paper's recurrent layer: r(t) = ReLU(U_r r(t-1) + w(t)), r(0) = 0."""

    def __init__(self, word: int, size: int) -> None:
        """Start U_r at .9 I, so that early training remembers the words before.

        Raises:
            UsageError: the two sizes differ.
        """
        super().__init__()
        if word != size:
            raise UsageError(
                f"r(t) = ReLU(U_r r(t-1) + w(t)) needs word {word} equal to recurrent {size}",
                hint="give both the same size",
            )
        self.state = (StateTensor("r", size),)
        self.weight = nn.Parameter(0.9 * torch.eye(size))

    def gates(self, word: Tensor) -> Tensor:
        """What depends on the word alone: w(t) itself, [..., q]."""
        return word

    def advance(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step: gates [r, q] and the state before it -> the state after it."""
        return (torch.relu(functional.linear(state[0], self.weight) + gates),)


class GatedRecurrence(nn.Module):
    """A gated recurrent unit (Cho et al., 2014), in the form that torch and cuDNN use.

    z = sigmoid(W_z w + U_z r), a = sigmoid(W_a w + U_a r), c = tanh(W_c w + b + a (U_c r + b')),
    r(t) = (1 - z) c + z r(t-1).
    """

    def __init__(self, word: int, size: int) -> None:
        """Orthogonal recurrent weights."""
        super().__init__()
        self.state = (StateTensor("r", size),)
        self.input = nn.Linear(word, 3 * size)
        self.hidden = nn.Linear(size, 3 * size)
        for block in self.hidden.weight.chunk(3):
            nn.init.orthogonal_(block.data)

    def gates(self, word: Tensor) -> Tensor:
        """What depends on the word alone: W w + b, [..., 3 q]."""
        gates: Tensor = self.input(word)
        return gates

    def advance(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step: gates [r, 3 q] and the state before it -> the state after it."""
        (before,) = state
        reset_in, update_in, new_in = gates.chunk(3, dim=1)
        reset_h, update_h, new_h = self.hidden(before).chunk(3, dim=1)
        update = torch.sigmoid(update_in + update_h)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_h) * new_h)
        return (new + update * (before - new),)


class MultimodalNet(nn.Module):
    """Words and image meet in the multimodal layer.

    m(t) = g2(V_w w(t) + V_r r(t) + V_I I), y(t) = softmax(V m(t)).
    """

    image_inputs = ("image_term",)

    def __init__(self, config: NetConfig, recurrence: PlainRecurrence | GatedRecurrence) -> None:
        """Build the layers around a recurrence."""
        super().__init__()
        self.config = config
        self.recurrence = recurrence
        self.state = recurrence.state
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        self.word = nn.Linear(config.embedding, config.word)
        self.from_word = nn.Linear(config.word, config.multimodal)
        self.from_recurrent = nn.Linear(config.recurrent, config.multimodal, bias=False)
        self.from_image = nn.Linear(config.feature_size, config.multimodal, bias=False)
        self.output = nn.Linear(config.multimodal, config.vocabulary_size)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=config.embedding**-0.5)

    def words(self, tokens: Tensor) -> Tensor:
        """Embedding I and II: tokens int64 [s] -> w(t) float32 [s, e]. II is linear."""
        word: Tensor = self.word(self.embedding(tokens))
        return word

    def forward(self, tokens: PackedSequence, features: Tensor) -> Tensor:
        """Teacher forcing: tokens int64 packed [s], features [b, d] -> logits [s, V], packed."""
        word = self.dropout(self.words(tokens.data))
        sizes = tokens.batch_sizes.tolist()
        gates = torch.split(self.recurrence.gates(word), sizes)
        state = tuple(word.new_zeros(sizes[0], tensor.size) for tensor in self.state)
        hidden = []
        for size, gate in zip(sizes, gates, strict=True):
            state = self.recurrence.advance(gate, tuple(tensor[:size] for tensor in state))
            hidden.append(state[0])
        image = self.from_image(self.dropout(unit_rms(features)))
        image_of_token = torch.cat([image[:size] for size in sizes])
        recurrent = self.from_recurrent(self.dropout(torch.cat(hidden)))
        multimodal = g2(self.from_word(word) + recurrent + image_of_token)
        logits: Tensor = self.output(self.dropout(multimodal))
        return logits

    def encode(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [n, d] -> image_term [n, m] = 2/3 V_I I: the 2/3 of g2 is folded in."""
        return (self.from_image(unit_rms(features)) * (2.0 / 3.0),)

    def reference(self, features: Tensor) -> Tensor:
        """Features [n, d] -> g2(V_I I), [n, m]."""
        return g2(self.from_image(unit_rms(features)))

    def step(self) -> nn.Module:
        """The folded step of these weights; see :class:`FoldedStep`."""
        return FoldedStep(self)


class FoldedStep(nn.Module):
    """One step: what depends on the token alone is a table, g2's constants are in the weights.

    u(t) = tanh(table[token] + (2/3 V_r) r(t) + image_term); logits = (1.7159 V) u(t) + b.
    """

    def __init__(self, net: MultimodalNet) -> None:
        """Fold the weights of ``net``; the result shares none with it but the recurrence's."""
        super().__init__()
        self.recurrence = net.recurrence
        with torch.no_grad():
            word = net.words(torch.arange(net.config.vocabulary_size))
            gates = net.recurrence.gates(word)
            self.split = [gates.shape[1], net.config.multimodal]
            table = torch.cat([gates, net.from_word(word) * (2.0 / 3.0)], dim=1)
            self.table = nn.Parameter(table, requires_grad=False)
            self.from_recurrent = nn.Parameter(net.from_recurrent.weight * (2.0 / 3.0))
            self.output = nn.Parameter(net.output.weight * 1.7159)
            self.bias = nn.Parameter(net.output.bias.clone())

    def forward(self, token: Tensor, image_term: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Token int64 [r], image_term [r, m], state -> (logits [r, V], *state)."""
        gates, word = torch.split(functional.embedding(token, self.table), self.split, dim=1)
        after = self.recurrence.advance(gates, state)
        multimodal = torch.tanh(
            word + functional.linear(after[0], self.from_recurrent) + image_term
        )
        return (functional.linear(multimodal, self.output, self.bias), *after)


def m_rnn(config: NetConfig) -> MultimodalNet:
    """The paper's m-RNN."""
    return MultimodalNet(config, PlainRecurrence(config.word, config.recurrent))


def gru(config: NetConfig) -> MultimodalNet:
    """The m-RNN with a gated recurrent unit, as the authors' later code has."""
    return MultimodalNet(config, GatedRecurrence(config.word, config.recurrent))


def pack(sentences: Sequence[Sequence[int]]) -> PackedSequence:
    """Pack token ids, longest sentence first: all first tokens, then all second ones, ..."""
    return nn.utils.rnn.pack_sequence([torch.tensor(sentence) for sentence in sentences])
