"""The recurrent layers. Each splits a step in two: what the word decides, and what the past adds.

The first part, the gates, is computed for all words at once in training and becomes a table in the
exported step.

Letters in shapes: r rows, e word embedding, q recurrent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrnn_runtime import UsageError

if TYPE_CHECKING:
    State = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One array that a cell carries from step to step, float32 [r, size].

    Attributes:
        name: in the cell's graph.
        size: its width.
        init: ``zeros``, or the name of the encoder output that it starts from.
    """

    name: str
    size: int
    init: str = "zeros"


class Recurrence(Protocol):
    """A recurrent layer, a torch module."""

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """What it carries; the first tensor is what it shows to the layers above, r(t)."""
        ...

    def gates(self, word: Tensor) -> Tensor:
        """What the input alone decides: [..., e] -> [..., g]; linear in it, with a bias perhaps."""
        ...

    def advance(self, gates: Tensor, state: State) -> State:
        """One step: gates [r, g] and the state before it -> the state after it."""
        ...


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
        """Return w(t) itself."""
        return word

    def advance(self, gates: Tensor, state: State) -> State:
        """Return r(t)."""
        return (torch.relu(functional.linear(state[0], self.weight) + gates),)


class ElmanRecurrence(nn.Module):
    """Elman's layer: r(t) = f(U [w(t); r(t-1)] + b), f the sigmoid or ReLU."""

    def __init__(self, word: int, size: int, *, relu: bool = False) -> None:
        """Build U as two blocks; with ReLU that of r(t-1) starts at .9 I, as in PlainRecurrence."""
        super().__init__()
        self.state = (StateTensor("r", size),)
        self.input = nn.Linear(word, size)
        self.hidden = nn.Linear(size, size, bias=False)
        if relu:
            self.hidden.weight.data.copy_(0.9 * torch.eye(size))
        self.relu = relu

    def gates(self, word: Tensor) -> Tensor:
        """Return U_w w(t) + b."""
        gates: Tensor = self.input(word)
        return gates

    def advance(self, gates: Tensor, state: State) -> State:
        """Return r(t)."""
        total = gates + self.hidden(state[0])
        return (torch.relu(total) if self.relu else torch.sigmoid(total),)


class VisualMemory(nn.Module):
    """Two layers side by side, r = [s; u], each of half the size, which see the words alone.

    s(t) = sigmoid(x_s(t) + W_s s(t-1) + b_s), u(t) = ReLU(x_u(t) + W_u u(t-1) + b_u), where
    [x_s; x_u] is the input itself: behind a one-hot word, an embedding is the input matrix.
    """

    def __init__(self, word: int, size: int) -> None:
        """Start W_u at .9 I, as in PlainRecurrence.

        Raises:
            UsageError: the two sizes differ, or are odd.
        """
        super().__init__()
        if word != size or size % 2:
            raise UsageError(
                f"[s; u] takes its input as it is: word {word} and recurrent {size} must be one"
                " even number",
                hint="give both the same size",
            )
        self.state = (StateTensor("r", size),)
        self.bias = nn.Parameter(torch.zeros(size))
        self.language = nn.Linear(size // 2, size // 2, bias=False)
        self.visual = nn.Linear(size // 2, size // 2, bias=False)
        self.visual.weight.data.copy_(0.9 * torch.eye(size // 2))

    def gates(self, word: Tensor) -> Tensor:
        """Return x(t) + b."""
        return word + self.bias

    def advance(self, gates: Tensor, state: State) -> State:
        """Return [s(t); u(t)]."""
        language, visual = state[0].chunk(2, dim=1)
        from_language, from_visual = gates.chunk(2, dim=1)
        language = torch.sigmoid(from_language + self.language(language))
        visual = torch.relu(from_visual + self.visual(visual))
        return (torch.cat([language, visual], dim=1),)


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
        """Return W w(t) + b of a, z and c, [..., 3 q]."""
        gates: Tensor = self.input(word)
        return gates

    def advance(self, gates: Tensor, state: State) -> State:
        """Return r(t)."""
        (before,) = state
        reset_in, update_in, new_in = gates.chunk(3, dim=1)
        reset_h, update_h, new_h = self.hidden(before).chunk(3, dim=1)
        update = torch.sigmoid(update_in + update_h)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_h) * new_h)
        return (new + update * (before - new),)


class LongShortTerm(nn.Module):
    """One or more stacked LSTM layers (Hochreiter and Schmidhuber, 1997, with forget gates).

    i, f, o = sigmoid(W x + U h + b), g = tanh(W x + U h + b), c(t) = f c(t-1) + i g,
    h(t) = o tanh(c(t)); x is the word in the first layer and h(t) of the layer below in the others.
    """

    def __init__(self, word: int, size: int, *, layers: int = 1) -> None:
        """Orthogonal recurrent weights; forget gates start open.

        With its input and output gates at one half, as they start, an LSTM attenuates its input to
        about a quarter; the layers above the first scale theirs by four to make up for it.
        """
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(size if i else word, 4 * size) for i in range(layers))
        self.hiddens = nn.ModuleList(nn.Linear(size, 4 * size, bias=False) for _ in range(layers))
        # The top layer's h stands first: it is what the layers above see.
        order = range(layers - 1, -1, -1)
        self.state = tuple(StateTensor(f"{k}{i}", size) for i in order for k in "hc")
        for layer in self.inputs:
            layer.bias.data[size : 2 * size] = 1.0  # type: ignore[operator]
        for layer, gain in [(h, 1) for h in self.hiddens] + [(i, 4) for i in self.inputs[1:]]:
            for block in layer.weight.chunk(4):  # type: ignore[operator]
                nn.init.orthogonal_(block.data, gain)

    def gates(self, word: Tensor) -> Tensor:
        """Return W x + b of the first layer, [..., 4 q]."""
        gates: Tensor = self.inputs[0](word)
        return gates

    def advance(self, gates: Tensor, state: State) -> State:
        """Return (h, c) of each layer, the top one first."""
        after: State = ()
        for i, hidden in enumerate(self.hiddens):
            before, cell = state[-2 * i - 2], state[-2 * i - 1]
            total = (self.inputs[i](after[0]) if i else gates) + hidden(before)
            write, keep, new, read = total.chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
            after = (torch.sigmoid(read) * torch.tanh(cell), cell, *after)
        return after
