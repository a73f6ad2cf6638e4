"""Scaling inside of a graph, bit by bit as Pillow does it: ``mrnn flatten --resize-inside``.

Pillow scales with a filter that widens with the reduction, one axis after the other, in whole
numbers of 22 bits; each result is rounded to 8 bits. One axis is done here by taking, for each
place of the result, the pixels that count (Gather), and multiplying them by their weights
(MatMulInteger), which are computed for the size of the image that comes in. MatMulInteger takes
8 bits, so a weight goes in as three digits.

Letters in shapes: n images, h/w pixels, s pixels along an axis, p places of the result along it,
q pixels that count for a place, a and b other axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mrnn_exporters.onnx_text import nodes_of, rename

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import NodeProto

    from mrnn_runtime import Preprocess

_BITS = 22
_DIGITS = [2**16, 2**8, 1]
_ZERO_DIGIT = 128

# The part of the image that is taken, in pixels: all of it, or the largest in its middle that has
# the shape of the encoder's input. Since version 13, Pillow scales the height first where that
# shrinks the more; as no graph of ours has a branch, all images of a batch go one of two ways and
# none the other.
_START = """
start (uint8[n, h, w, 3] pixels) => () {
    count = Shape <start = 0, end = 1> (pixels)
    height_whole = Shape <start = 1, end = 2> (pixels)
    width_whole = Shape <start = 2, end = 3> (pixels)
    image_height = Cast <to = 11> (height_whole)
    image_width = Cast <to = 11> (width_whole)
    less_high = Sub (image_height, height)
    less_wide = Sub (image_width, width)
    narrows = Max (less_wide, nought)
    narrows_twice = Add (narrows, narrows)
    is_height_first = Greater (less_high, narrows_twice)
    height_first = Cast <to = 7> (is_height_first)
    width_first = Sub (one, height_first)
    down_count = Mul (count, height_first)
    across_count = Mul (count, width_first)
    down_pixels = Slice (pixels, zero, down_count, first_axis)
    across_pixels = Slice (pixels, zero, across_count, first_axis)
    by_column = Transpose <perm = [2, 0, 1, 3]> (across_pixels)
    by_row = Transpose <perm = [1, 0, 2, 3]> (down_pixels)
}
"""
_SQUASH = """
squash (double[1] image_width, double[1] image_height) => () {
    left = Identity (nought)
    top = Identity (nought)
    right = Identity (image_width)
    bottom = Identity (image_height)
}
"""
_CROP = """
crop (double[1] image_width, double[1] image_height) => () {
    image_aspect = Div (image_width, image_height)
    is_wide = GreaterOrEqual (image_aspect, aspect)
    width_if_wide = Mul (aspect, image_height)
    height_if_high = Div (image_width, aspect)
    box_width = Where (is_wide, width_if_wide, image_width)
    box_height = Where (is_wide, image_height, height_if_high)
    spare_width = Sub (image_width, box_width)
    spare_height = Sub (image_height, box_height)
    left = Mul (spare_width, half)
    top = Mul (spare_height, half)
    right = Add (left, box_width)
    bottom = Add (top, box_height)
}
"""
# For one axis: which pixels count for each place, int64 [p, q], and how much, times 2^22, as three
# digits to the base 256, uint8 [p, 3, q]; digits go from -128 to 127. Pillow keeps the edges of the
# box as float32.
_WEIGHTS = """
weights (double[1] low, double[1] high, double[1] size, int64[1] size_whole) => () {
    low_single = Cast <to = 1> (low)
    high_single = Cast <to = 1> (high)
    span_single = Sub (high_single, low_single)
    edge = Cast <to = 11> (low_single)
    span = Cast <to = 11> (span_single)
    step = Div (span, places)
    widening = Max (step, unit)
    radius = Mul (widening, reach)
    offset = Mul (middles, step)
    centre = Add (edge, offset)
    first_exact = Sub (centre, radius)
    first_rounded = Add (first_exact, half)
    first_whole = Cast <to = 7> (first_rounded)
    first = Max (first_whole, zero)
    end_exact = Add (centre, radius)
    end_rounded = Add (end_exact, half)
    end_whole = Cast <to = 7> (end_rounded)
    end = Min (end_whole, size_whole)

    counts = Sub (end, first)
    most = ReduceMax <keepdims = 0> (counts)
    numbers = Range (zero_scalar, most, one_scalar)
    pixel = Add (first, numbers)
    counted = Less (pixel, end)
    last_pixel = Sub (size_whole, one)
    index = Min (pixel, last_pixel)

    pixel_exact = Cast <to = 11> (pixel)
    from_centre = Sub (pixel_exact, centre)
    from_middle = Add (from_centre, half)
    per_pixel = Reciprocal (widening)
    argument = Mul (from_middle, per_pixel)
    x = Abs (argument)
}
"""
_FILTERS = {
    "bilinear": """
filter (double[p, q] x) => () {
    falling = Sub (unit, x)
    filtered = Max (falling, nought)
}
""",
    # Keys' cubic with a = -1/2: one polynomial up to 1, another up to 2.
    "bicubic": """
filter (double[p, q] x) => () {
    near_3 = Mul (x, one_and_half)
    near_2 = Sub (near_3, two_and_half)
    near_1 = Mul (near_2, x)
    near_0 = Mul (near_1, x)
    near = Add (near_0, unit)
    far_3 = Sub (x, five)
    far_2 = Mul (far_3, x)
    far_1 = Add (far_2, eight)
    far_0 = Mul (far_1, x)
    far_sum = Sub (far_0, four)
    far = Mul (far_sum, minus_half)
    is_near = Less (x, unit)
    is_within = Less (x, two)
    far_or_none = Where (is_within, far, nought)
    filtered = Where (is_near, near, far_or_none)
}
""",
}
_DIGITS_OF_WEIGHTS = """
digits (double[p, q] filtered) => () {
    raw = Where (counted, filtered, nought)
    sum = ReduceSum (raw, last_axis)
    share = Div (raw, sum)
    scaled = Mul (share, two_to_bits)
    sign = Sign (scaled)
    rounding = Mul (sign, half)
    rounded = Add (scaled, rounding)
    weight = Cast <to = 7> (rounded)
    shifted = Add (weight, shift)
    line = Unsqueeze (shifted, middle_axis)
    cut_below = Div (line, digit_values)
    cut_above = Mod (cut_below, base)
    digits = Cast <to = 2> (cut_above)
}
"""
# One axis of an image, the first: uint8 [s, a, b, 3] -> uint8 [p, a, b, 3].
_PASS = """
pass (uint8[s, a, b, 3] pixels) => () {
    other_axes = Shape <start = 1> (pixels)
    other_size = ReduceProd <keepdims = 1> (other_axes)
    weight_shape = Shape <start = 0, end = 1> (index)
    q_size = Shape <start = 1> (index)
    lines_shape = Concat <axis = 0> (weight_shape, q_size, other_size)
    scaled_shape = Concat <axis = 0> (weight_shape, other_axes)
    counting = Gather <axis = 0> (pixels, index)
    lines = Reshape <allowzero = 1> (counting, lines_shape)
    sums = MatMulInteger (digits, lines, zero_digit)
    values = Mul (sums, digit_values_small)
    value = ReduceSum <keepdims = 0> (values, middle_axis)
    with_half = Add (value, half_of_bits)
    result = Div (with_half, two_to_bits_small)
    clipped = Clip (result, black, white)
    bytes = Cast <to = 2> (clipped)
    scaled_pixels = Reshape <allowzero = 1> (bytes, scaled_shape)
}
"""
_BETWEEN = """
between (uint8[p, n, s, 3] half) => () {
    turned = Transpose <perm = [2, 1, 0, 3]> (half)
}
"""
_END = """
end (uint8[q, n, p, 3] across_scaled, uint8[p, n, q, 3] down_scaled) => () {
    across_image = Transpose <perm = [1, 0, 2, 3]> (across_scaled)
    down_image = Transpose <perm = [1, 2, 0, 3]> (down_scaled)
    stacked = Concat <axis = 0> (across_image, down_image)
    image = Reshape (stacked, image_shape)
}
"""


def resize_graph(
    recipe: Preprocess, pixels: str, image: str
) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """Return the nodes that scale ``pixels`` to ``image``, and the constants that they need.

    Args:
        recipe: the size that is wanted, and how.
        pixels: the name of the tensor that comes in, uint8 [n, any, any, 3], RGB.
        image: the name of the one that goes out, uint8 [n, h, w, 3].
    """
    nodes = [
        *nodes_of(_START),
        *nodes_of(_CROP if recipe.resize == "crop" else _SQUASH),
        *_weights("x", recipe, low="left", high="right", size="width"),
        *_weights("y", recipe, low="top", high="bottom", size="height"),
        *_two_passes("across", "by_column", "x", "y"),
        *_two_passes("down", "by_row", "y", "x"),
        *nodes_of(_END),
    ]
    constants = _constants(recipe)
    used = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    names = {name: f"resize/{name}" for name in (made | constants.keys())}
    rename(nodes, names | {"pixels": pixels, "image": image})
    return nodes, {names[name]: array for name, array in constants.items() if name in used}


def _weights(axis: str, recipe: Preprocess, *, low: str, high: str, size: str) -> list[NodeProto]:
    """Return what the weights of an axis need: what is its own has the axis before its name."""
    nodes = [
        *nodes_of(_WEIGHTS),
        *nodes_of(_FILTERS[recipe.interpolation]),
        *nodes_of(_DIGITS_OF_WEIGHTS),
    ]
    own = {name for node in nodes for name in node.output} | {"places", "middles"}
    given = {"low": low, "high": high, "size_whole": f"{size}_whole"}
    rename(nodes, {name: f"{axis}/{name}" for name in own} | given)
    return nodes


def _two_passes(way: str, pixels: str, first: str, second: str) -> list[NodeProto]:
    """Return the nodes that scale one axis and then the other."""
    between = nodes_of(_BETWEEN)
    rename(between, {"half": f"{way}_half", "turned": f"{way}_turned"})
    return [
        *_pass(f"{way}/{first}", first, pixels, f"{way}_half"),
        *between,
        *_pass(f"{way}/{second}", second, f"{way}_turned", f"{way}_scaled"),
    ]


def _pass(step: str, axis: str, pixels: str, scaled: str) -> list[NodeProto]:
    """Return the nodes that scale an axis."""
    nodes = nodes_of(_PASS)
    own = {name for node in nodes for name in node.output}
    of_axis = {name: f"{axis}/{name}" for name in ("index", "digits")}
    given = {"pixels": pixels, "scaled_pixels": scaled}
    rename(nodes, {name: f"{step}/{name}" for name in own} | of_axis | given)
    return nodes


def _constants(recipe: Preprocess) -> dict[str, NDArray[np.generic]]:
    whole: Mapping[str, object] = {
        "zero": [0], "one": [1], "zero_scalar": 0, "one_scalar": 1,
        "first_axis": [0], "middle_axis": [1], "last_axis": [-1],
        "base": [256], "digit_values": np.transpose([_DIGITS]),
        "shift": [_ZERO_DIGIT * sum(_DIGITS)],
        "image_shape": [-1, recipe.height, recipe.width, 3],
    }  # fmt: skip
    small: Mapping[str, object] = {
        "digit_values_small": np.transpose([_DIGITS]), "half_of_bits": 2 ** (_BITS - 1),
        "two_to_bits_small": 2**_BITS, "black": 0, "white": 255,
    }  # fmt: skip
    exact: Mapping[str, object] = {
        "nought": [0], "half": [0.5], "minus_half": [-0.5], "unit": [1], "two": [2], "four": [4],
        "five": [5], "eight": [8], "one_and_half": [1.5], "two_and_half": [2.5],
        "two_to_bits": [2**_BITS],
        "reach": [2 if recipe.interpolation == "bicubic" else 1],
        "aspect": [recipe.width / recipe.height],
        "width": [recipe.width], "height": [recipe.height],
        "x/places": [recipe.width], "y/places": [recipe.height],
        "x/middles": np.arange(recipe.width)[:, None] + 0.5,
        "y/middles": np.arange(recipe.height)[:, None] + 0.5,
    }  # fmt: skip
    return {
        **{name: np.array(value, np.int64) for name, value in whole.items()},
        **{name: np.array(value, np.int32) for name, value in small.items()},
        **{name: np.array(value, np.float64) for name, value in exact.items()},
        "zero_digit": np.array(_ZERO_DIGIT, np.uint8),
    }
