"""Every classifier of torchvision as a backbone. Light; the torch side is in ``backbones``."""

from __future__ import annotations

from mrnn_runtime import Component, hookimpl

# A list, because asking torchvision for its names would load torch; a test compares the two.
CLASSIFIERS = (
    *("alexnet", "convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    *("efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7"),
    *("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
    *("googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf"),
    *("regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf"),
    *("regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf"),
    *("regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("squeezenet1_0", "squeezenet1_1"),
    *("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)

_SUMMARIES = {
    "alexnet": "AlexNet, fc7, 4096-d",
    "vgg16": "VGG-16, fc7, 4096-d",
    "resnet50": "ResNet-50, pooled, 2048-d",
    "mobilenet_v3_large": "MobileNet-V3-Large, pooled, 960-d",
}


@hookimpl
def mrnn_backbones() -> list[Component]:
    """Register each classifier under torchvision's name, hyphens for underscores."""
    return [
        Component(
            name.replace("_", "-"),
            f"mrnn_torchvision.backbones:{name}",
            _SUMMARIES.get(name, f"torchvision's {name}, the input of its last layer"),
        )
        for name in CLASSIFIERS
    ]
