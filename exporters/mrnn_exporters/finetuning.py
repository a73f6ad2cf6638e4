"""A CNN in two parts: a frozen one, whose activations are kept, and its last stages, to be trained.

Batch norm stays as it is, statistics and scale alike: a batch of a few photos says little of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from mrnn_runtime import UsageError
from mrnn_runtime.build import blaming

if TYPE_CHECKING:
    from mrnn_runtime import Backbone, Preprocess


@runtime_checkable
class Splittable(Protocol):
    """What the module of a backbone may offer beside, so that its last stages can be trained."""

    def split(self, stages: int, height: int, width: int) -> tuple[nn.Module, nn.Module]:
        """Return the module in two parts that share its weights.

        The first maps uint8 [n, height, width, 3] to activations, float32 [n, a]; the second, the
        last ``stages`` stages, those to float32 [n, feature_size].

        Raises:
            UsageError: it has fewer stages.
        """
        ...


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """A backbone up to where it is trained; fulfils ``mrnn_runtime.Backbone``."""

    module: nn.Module
    feature_size: int
    preprocess: Preprocess
    weights_id: str


def split(backbone: Backbone, stages: int, *, name: str) -> tuple[FrozenPart, nn.Module]:
    """Return the frozen part of a backbone, and the part to be trained, which shares its weights.

    Args:
        backbone: the CNN.
        stages: how many of the last stages are to be trained.
        name: what users call the backbone, for errors.

    Raises:
        UsageError: it cannot be split, or has fewer stages.
        PluginError: its ``split`` fails.
    """
    module, size = backbone.module, backbone.preprocess
    if not isinstance(module, Splittable):
        raise UsageError(
            f"backbone {name!r} cannot be fine-tuned: its module has no split()",
            hint="take efficientnet-lite2, say, or leave out --finetune",
        )
    with blaming(f"backbone {name!r}"):
        frozen, tail = module.split(stages, size.height, size.width)
        with torch.no_grad():
            example = frozen(torch.zeros(1, size.height, size.width, 3, dtype=torch.uint8))
    return FrozenPart(frozen, example.shape[1], size, backbone.weights_id), tail


def make_trainable(tail: nn.Module) -> None:
    """Let a tail's weights have gradients, but for batch norm's."""
    tail.requires_grad_(True)
    for layer in tail.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.requires_grad_(False)
