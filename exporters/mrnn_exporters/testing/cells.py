"""What every cell promises, as checks; each takes the target, ``(NetConfig) -> Cell``.

Letters in shapes: n images, r rows, d image feature, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mrnn_exporters.graphs import encoded_names, export_cell
from mrnn_exporters.nets import Cell, NetConfig, pack
from mrnn_runtime.build import make_session
from mrnn_runtime.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[NetConfig], Cell]

CONFIG = NetConfig(
    vocabulary_size=40, feature_size=7, embedding=4, word=8, recurrent=8, multimodal=16
)
SENTENCES = ((1, 4, 9, 4, 2), (1, 5, 6), (1, 10))
TOLERANCE = 1e-4


def it_encodes_images(build: Build) -> None:
    """Float32 [n, ...] for each image input and each state that starts from the image."""
    cell, features = _make(build)
    names = (*encoded_names(cell), "reference")
    arrays, alone = _encode(cell, features), _encode(cell, features[1:2])
    require(len(arrays) == len(names), f"it gives {len(arrays)} tensors for {names}")
    for name, array, one in zip(names, arrays, alone, strict=True):
        fits = array.dtype == torch.float32 and len(array) == len(features)
        require(fits and bool(torch.isfinite(array).all()), f"{name} is not finite float32 [n, ..]")
        require(_close(array[1:2], one), f"{name} depends on the other images")


def a_step_returns_the_state_that_it_declares(build: Build) -> None:
    """Logits [r, V], then float32 [r, size] for each tensor of state."""
    cell, features = _make(build)
    logits, *after = _step(cell, [1, 4, 5], *_start(cell, features))
    wanted = [(3, CONFIG.vocabulary_size), *((3, tensor.size) for tensor in cell.state)]
    given = [tuple(tensor.shape) for tensor in (logits, *after)]
    require(given == wanted, f"a step gives {given}, not {wanted}")
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
        images, state = _start(cell, features[b : b + 1])
        for place, token in enumerate(sentence):
            logits, *after = _step(cell, [token], images, state)
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
    assert isinstance(cell, nn.Module)  # tells a type checker what require has checked
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
    images, state = _start(cell, features)
    names = [tensor.name for tensor in cell.state]
    inputs = dict(zip((*cell.image_inputs, *names), (*images, *state), strict=True))
    with TemporaryDirectory() as folder:
        path = Path(folder, "cell.onnx")
        two = [image[:2] for image in images]  # traced with two rows, run with three
        export_cell(cell, cell.step(), two, path, vocabulary_size=CONFIG.vocabulary_size)
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        feeds |= {"token": np.array([1, 4, 5]), "k": np.array([1])}
        outputs = ["log_probs", *(f"next_{name}" for name in names)]
        given = make_session(path, "cpu", 1).run(outputs, feeds)
    logits, *after = _step(cell, [1, 4, 5], images, state)
    expected = (logits.log_softmax(dim=1), *after)
    for name, one, other in zip(outputs, given, expected, strict=True):
        require(_close(torch.from_numpy(one), other), f"{name} differs")


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


def _encode(cell: Cell, features: Tensor) -> tuple[Tensor, ...]:
    """Return what belongs into the encoder graph: what encode gives, and the reference."""
    with torch.no_grad():
        return (*cell.encode(features), cell.reference(features))


def _start(cell: Cell, features: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the image inputs, each [n, ...], and the state before the first step."""
    encoded = dict(zip((*encoded_names(cell), "reference"), _encode(cell, features), strict=True))
    images = tuple(encoded[name] for name in cell.image_inputs)
    state = tuple(
        torch.zeros(len(features), tensor.size) if tensor.init == "zeros" else encoded[tensor.init]
        for tensor in cell.state
    )
    return images, state


def _step(
    cell: Cell, tokens: list[int], images: tuple[Tensor, ...], state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(cell.step().eval()(torch.tensor(tokens), *images, *state))


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
