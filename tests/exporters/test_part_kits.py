"""The kits for backbones and cells: who breaks a rule fails the check that is named for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from mrnn_exporters import cells as shipped
from mrnn_exporters.testing import backbones, cells
from mrnn_runtime import Component, Preprocess, UsageError
from mrnn_runtime.testing import checks_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from mrnn_exporters.nets import NetConfig


@pytest.fixture
def broken_rules(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """Run all checks of a target; return the names of those that fail."""

    def run(target: object, kind: Any) -> set[str]:
        module = ModuleType("broken_module")
        module.target = target  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "broken_module", module)
        failed = set()
        for check in checks_for(Component("broken", "broken_module:target", ""), kind):
            try:
                check.run()
            except Exception:
                failed.add(check.name.removeprefix("broken: "))
        return failed

    return run


def named(rule: Callable[..., object]) -> str:
    return rule.__name__.replace("_", " ")


SIZE = Preprocess(height=16, width=16)


@dataclass(frozen=True, slots=True)
class Backbone:
    module: nn.Module
    feature_size: int = 8
    preprocess: Preprocess = SIZE
    weights_id: str = "random"


class Net(nn.Module):
    """Takes 8 random sums of the pixels."""

    def __init__(self, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16 * 16 * 3, 8, generator=generator))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout((images.to(torch.float32) / 255).flatten(1) @ self.weight)


def build(weights: str) -> Backbone:
    if weights != "random":
        raise UsageError(f"there are no weights {weights!r}", hint="use random")
    return Backbone(Net(torch.Generator().manual_seed(0)).eval())


class Centred(Net):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(dim=0) * (len(images) > 2)


def chatty(weights: str) -> Backbone:
    print("loading")
    return build(weights)


BACKBONES = {
    backbones.it_says_what_it_is: lambda weights: replace(build(weights), weights_id=""),
    backbones.pixels_become_features: lambda weights: replace(build(weights), feature_size=9),
    backbones.it_is_ready_to_run: lambda weights: Backbone(build(weights).module.train()),
    backbones.no_image_depends_on_its_neighbours: lambda weights: Backbone(Centred(None).eval()),
    backbones.random_weights_are_always_the_same: lambda weights: Backbone(Net(None).eval()),
    backbones.unknown_weights_are_an_error: lambda weights: build("random"),
    backbones.it_keeps_stdout_clean: chatty,
}


@pytest.mark.parametrize("rule", backbones.CHECKS, ids=named)
def test_a_backbone_that_breaks_a_rule(broken_rules: Any, rule: Any) -> None:
    assert named(rule) in broken_rules(BACKBONES[rule], "backbones")


def test_a_backbone_that_breaks_none(broken_rules: Any) -> None:
    assert broken_rules(build, "backbones") == set()


def changed(**methods: Any) -> Callable[[NetConfig], nn.Module]:
    """The m-RNN with methods replaced; each gets the net and what the method returns."""

    def build_changed(config: NetConfig) -> nn.Module:
        net = shipped.m_rnn(config)
        for name, change in methods.items():
            setattr(net, name, Replaced(net, getattr(net, name), change))
        return net

    return build_changed


class Replaced:
    def __init__(self, net: nn.Module, method: Any, change: Any) -> None:
        self.net, self.method, self.change = net, method, change

    def __call__(self, *args: Any) -> Any:
        return self.change(self.net, self.method(*args))


class WideStep(nn.Module):
    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        logits, *state = self.step(*args)
        return (logits, *state, *state)


class ConstantStep(WideStep):
    """Behaves otherwise when it is traced for export."""

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        logits, *state = self.step(*args)
        shift = 1.0 if torch.jit.is_tracing() else 0.0
        return (logits * (1.0 + shift), *state)


def scaled(factor: Tensor, net: nn.Module, logits: Tensor) -> Tensor:
    return logits * factor


CELLS = {
    cells.it_encodes_images: changed(encode=lambda net, inputs: (inputs[0] - inputs[0].mean(0),)),
    cells.a_step_returns_the_state_that_it_declares: changed(step=lambda net, step: WideStep(step)),
    cells.teacher_forcing_equals_steps: changed(encode=lambda net, inputs: (2 * inputs[0],)),
    cells.it_runs_without_chance_in_eval_mode: changed(
        forward=lambda net, logits: logits + torch.rand(1)
    ),
    cells.its_weights_are_all_there_is: lambda config: changed(
        forward=partial(scaled, torch.rand(1))
    )(config),
    cells.it_learns: changed(forward=lambda net, logits: logits * 1e-6),
    cells.onnx_runtime_computes_the_same_step: changed(step=lambda net, step: ConstantStep(step)),
}


@pytest.mark.parametrize("rule", cells.CHECKS, ids=named)
def test_a_cell_that_breaks_a_rule(broken_rules: Any, rule: Any) -> None:
    assert named(rule) in broken_rules(CELLS[rule], "cells")


def test_a_cell_that_breaks_none(broken_rules: Any) -> None:
    assert broken_rules(shipped.m_rnn, "cells") == set()
