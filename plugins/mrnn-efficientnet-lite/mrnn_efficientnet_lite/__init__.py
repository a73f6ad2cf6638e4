"""EfficientNet-Lite0 to 3 as backbones. This hook module is light; ``backbones`` has torch."""

from __future__ import annotations

from mrnn_runtime import Component, hookimpl


@hookimpl
def mrnn_backbones() -> list[Component]:
    """Register the four sizes, and nets that are joined of them."""
    single = [
        Component(
            f"efficientnet-lite{size}",
            f"mrnn_efficientnet_lite.backbones:build_lite{size}",
            f"EfficientNet-Lite{size}, {pixels} px, pooled, 1280-d",
        )
        for size, pixels in enumerate((224, 240, 260, 280))
    ]
    joined = [
        Component(
            f"efficientnet-lite{'+'.join(sizes)}",
            f"mrnn_efficientnet_lite.backbones:build_lite{sizes}",
            f"EfficientNet-Lite{' and '.join(sizes)} side by side, 240 px, {1280 * len(sizes)}-d",
        )
        for sizes in ("12", "123")
    ]
    return [*single, *joined]
