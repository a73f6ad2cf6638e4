"""The torch side: any classifier of torchvision, cut before its last layer.

Each name in ``mrnn_torchvision.CLASSIFIERS`` is an attribute of this module:
``resnet50(weights)`` is ``build("resnet50", weights)``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision import models

from mrnn_runtime import MrnnError, Preprocess, UsageError
from mrnn_torchvision import CLASSIFIERS

if TYPE_CHECKING:
    from collections.abc import Callable

# What torchvision passes along with its own weights; a net for weights from a file needs it too.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
    "vit_h_14": {"image_size": 518},
}


@dataclass(frozen=True, slots=True)
class TorchvisionBackbone:
    """Fulfils ``mrnn_runtime.Backbone``."""

    module: nn.Module
    feature_size: int
    preprocess: Preprocess
    weights_id: str


class Trunk(nn.Module):
    """A classifier without its last layer, and the normalisation in front of it."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: list[float], std: list[float]) -> None:
        """Take over ``net``; ``mean`` and ``std`` are of 0..1 RGB."""
        super().__init__()
        self.net = net
        self.register_buffer("mean", 255.0 * torch.tensor(mean).reshape(3, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(std).reshape(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 [n, h, w, 3] RGB to float32 [n, d]."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(
            False
        )  # the fast path of attention has no ONNX form
        try:
            features: Tensor = self.net((pixels - self.mean) / self.std)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        return features


def __getattr__(name: str) -> Callable[[str], TorchvisionBackbone]:
    if name not in CLASSIFIERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(build, name)


def build(name: str, weights: str) -> TorchvisionBackbone:
    """Build a backbone.

    Args:
        name: torchvision's name of the classifier.
        weights: ``default``, torchvision's name of them (IMAGENET1K_V1), a state dict file, or
            ``random``.

    Raises:
        UsageError: the weights are none of these, or the file does not fit the net.
        MrnnError: torchvision could not download the weights.
    """
    known = models.get_model_weights(name)
    recipe = known.DEFAULT
    if weights == "random":
        net = models.get_model(name, weights=None, **_ARGUMENTS.get(name, {}))
        _randomise(net)
        weights_id = "random"
    elif weights == "default" or weights in known.__members__:
        recipe = known.DEFAULT if weights == "default" else known[weights]
        net = _download(name, recipe)
        weights_id = Path(recipe.url).stem
    else:
        file = Path(weights)
        if not file.is_file():
            raise UsageError(
                f"{name} has no weights {weights!r}",
                hint=f"use default, {', '.join(each.name for each in known)}, random, or the path "
                "of a state dict file",
            )
        net = models.get_model(name, weights=None, **_ARGUMENTS.get(name, {}))
        weights_id = _load(net, name, file)
    feature_size = _behead(net, name)
    transforms = recipe.transforms()
    module = Trunk(net, transforms.mean, transforms.std).eval().requires_grad_(False)
    size = transforms.crop_size[0]
    preprocess = Preprocess(
        height=size,
        width=size,
        resize="crop",
        interpolation=transforms.interpolation.value,
        reduced=True,
    )
    return TorchvisionBackbone(module, feature_size, preprocess, weights_id)


def _behead(net: nn.Module, name: str) -> int:
    """Replace the last layer by nothing, and return how wide its input was."""
    layers = {p: m for p, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    path = list(layers)[-1]
    head = layers[path]
    if name.startswith("mobilenet_v3"):  # a hidden layer lies between the pooled map and the last
        path, head = "classifier", layers["classifier.0"]
    net.set_submodule(path, nn.Identity())
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def _randomise(net: nn.Module) -> None:
    # He's initialisation: some of torchvision's own lets the features of so deep a net vanish.
    generator = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _download(name: str, recipe: Any) -> nn.Module:  # noqa: ANN401 - an enum that torchvision makes up
    try:
        net: nn.Module = models.get_model(name, weights=recipe)
    except (
        OSError,
        RuntimeError,
    ) as error:  # no network, no room, or a file that its checksum disowns
        raise MrnnError(
            f"torchvision could not get the weights {recipe.name} of {name}: {error}",
            hint=f"fetch {recipe.url} elsewhere and give the path of the file as weights",
        ) from error
    return net


def _load(net: nn.Module, name: str, file: Path) -> str:
    try:
        net.load_state_dict(_state_dict(file))
    except Exception as error:  # a file that is no state dict fails in many ways
        raise UsageError(
            f"cannot load {file} into {name}: {type(error).__name__}",
            hint=f"it must be a state dict of torchvision's {name}, .safetensors or by torch.save",
        ) from error
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:12]


def _state_dict(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    for key in list(state):  # torchvision's DenseNet files are older than its DenseNet
        renamed = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        if renamed != key:  # in place: the dict carries version numbers that a new one would not
            state[renamed] = state.pop(key)
    return state
