"""What every cell promises, as checks; each takes the target, ``(NetConfig) -> Cell``.

Letters in shapes: b sentences, r rows, d image feature, m multimodal size, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mrnn_exporters.graphs import export_cell
from mrnn_exporters.nets import Cell, NetConfig, pack
from mrnn_runtime.sessions import make_session
from mrnn_runtime.testing.checks import require

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[NetConfig], Cell]

CONFIG = NetConfig(
    vocabulary_size=40, feature_size=7, embedding=4, word=8, recurrent=8, multimodal=16
)
SENTENCES = ((1, 4, 9, 4, 2), (1, 5, 6), (1, 10))
TOLERANCE = 1e-4


def it_encodes_images(build: Build) -> None:
    """One float32 [n, ...] for each name in image_inputs; a reference [n, ...] for neighbours."""
    cell, features = _make(build)
    with torch.no_grad():
        arrays, reference = cell.encode(features), cell.reference(features)
        alone = cell.encode(features[1:2])
    names = cell.image_inputs
    require(len(arrays) == len(names), f"encode gives {len(arrays)} tensors for {names}")
    for name, array in zip((*names, "reference"), (*arrays, reference), strict=True):
        fits = array.dtype == torch.float32 and len(array) == len(features)
        require(fits and bool(torch.isfinite(array).all()), f"{name} is not finite float32 [n, ..]")
    for name, array, one in zip(names, arrays, alone, strict=True):
        require(_close(array[1:2], one), f"{name} depends on the other images")


def a_step_returns_the_state_that_it_declares(build: Build) -> None:
    """Logits [r, V], then float32 [r, size] for each tensor of state."""
    cell, features = _make(build)
    logits, *after = _step(cell, features, [1, 4, 5], _zeros(cell, 3))
    wanted = [(3, CONFIG.vocabulary_size), *((3, tensor.size) for tensor in cell.state)]
    found = [tuple(tensor.shape) for tensor in (logits, *after)]
    require(found == wanted, f"a step gives {found}, not {wanted}")
    types = {tensor.dtype for tensor in (logits, *after)}
    require(types == {torch.float32}, f"a step gives {types}, not float32")
    require(len({t.name for t in cell.state}) == len(cell.state), "two states have one name")


def teacher_forcing_equals_steps(build: Build) -> None:
    """What is trained is what is exported: packed sentences give what single steps give."""
    cell, features = _make(build)
    with torch.no_grad():
        packed = cell(pack(SENTENCES), features).log_softmax(dim=1)
    steps: dict[tuple[int, int], Tensor] = {}
    for b, sentence in enumerate(SENTENCES):
        state = _zeros(cell, 1)
        for place, token in enumerate(sentence):
            logits, *after = _step(cell, features[b : b + 1], [token], state)
            state = tuple(after)
            steps[place, b] = logits.log_softmax(dim=1)
    # Packed order: all first tokens, then all second ones, ...
    require(_close(packed, torch.cat([steps[key] for key in sorted(steps)])), "they differ")


def it_runs_without_chance_in_eval_mode(build: Build) -> None:
    """Dropout is for training only."""
    cell, features = _make(build)
    with torch.no_grad():
        first, again = cell(pack(SENTENCES), features), cell(pack(SENTENCES), features)
    require(torch.equal(first, again), "the same input gives another output the second time")


def its_weights_are_all_there_is(build: Build) -> None:
    """A second cell with the weights of the first one computes the same."""
    cell, features = _make(build)
    other, _ = _make(build, seed=8)
    other.load_state_dict(cell.state_dict())
    with torch.no_grad():
        same = _close(cell(pack(SENTENCES), features), other(pack(SENTENCES), features))
    require(same, "something that decides the output is not in state_dict()")


def it_learns(build: Build) -> None:
    """A few steps of training on three sentences halve the loss."""
    cell, features = _make(build)
    require(isinstance(cell, nn.Module), "it is no torch.nn.Module")
    assert isinstance(cell, nn.Module)  # tells a type checker what require has found
    inputs, targets = pack([s[:-1] for s in SENTENCES]), pack([s[1:] for s in SENTENCES])
    optimiser = torch.optim.Adam(cell.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(cell(inputs, features), targets.data)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    require(losses[-1] < losses[0] / 2, f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")


def onnx_runtime_computes_the_same_step(build: Build) -> None:
    """With the inputs, states and outputs that a bundle lists."""
    cell, features = _make(build)
    with torch.no_grad():
        arrays = dict(zip(cell.image_inputs, cell.encode(features), strict=True))
    state = tuple(tensor + 0.5 for tensor in _zeros(cell, 3))
    with TemporaryDirectory() as folder:
        path = Path(folder, "cell.onnx")
        examples = {name: array[:2] for name, array in arrays.items()}
        export_cell(cell, cell.step(), examples, path, vocabulary_size=CONFIG.vocabulary_size)
        session = make_session(path, "cpu", 1)
        names = [tensor.name for tensor in cell.state]
        feeds = {name: array.numpy() for name, array in arrays.items()}
        feeds |= {name: tensor.numpy() for name, tensor in zip(names, state, strict=True)}
        feeds |= {"token": np.array([1, 4, 5]), "k": np.array([1])}
        outputs = ["log_probs", *(f"next_{name}" for name in names)]
        found = [torch.from_numpy(array) for array in session.run(outputs, feeds)]
    logits, *after = _step(cell, features, [1, 4, 5], state)
    for name, one, other in zip(outputs, found, (logits.log_softmax(dim=1), *after), strict=True):
        require(_close(one, other), f"{name} differs")


CHECKS: tuple[Callable[[Build], None], ...] = (
    it_encodes_images,
    a_step_returns_the_state_that_it_declares,
    teacher_forcing_equals_steps,
    it_runs_without_chance_in_eval_mode,
    its_weights_are_all_there_is,
    it_learns,
    onnx_runtime_computes_the_same_step,
)


def _make(build: Build, seed: int = 3) -> tuple[Cell, Tensor]:
    """Return a small cell in eval mode and three image features, float32 [3, d]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(CONFIG).eval(), torch.rand(3, CONFIG.feature_size, generator=_seeded())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _zeros(cell: Cell, rows: int) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(rows, tensor.size) for tensor in cell.state)


def _step(
    cell: Cell, features: Tensor, tokens: list[int], state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    with torch.no_grad():
        step = cell.step().eval()
        return tuple(step(torch.tensor(tokens), *cell.encode(features), *state))


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
