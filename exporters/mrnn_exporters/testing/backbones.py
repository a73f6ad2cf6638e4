"""What every backbone promises, as checks; each takes the target, ``build(weights) -> Backbone``.

They build it with ``random`` weights, so nothing is downloaded.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mrnn_runtime import MrnnError, Preprocess
from mrnn_runtime.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from mrnn_runtime import Backbone

    Build = Callable[[str], Backbone]


def it_says_what_it_is(build: Build) -> None:
    """A torch module, its feature's width, its preprocessing, a text for its weights."""
    backbone = _random(build)
    require(isinstance(backbone.module, nn.Module), "module is no torch.nn.Module")
    require(isinstance(backbone.preprocess, Preprocess), "preprocess is no Preprocess")
    require(backbone.feature_size > 0, f"feature_size is {backbone.feature_size}")
    text = backbone.weights_id
    require(isinstance(text, str) and text.strip() == text != "", f"weights_id is {text!r}")


def pixels_become_features(build: Build) -> None:
    """From uint8 [n, h, w, 3] to finite float32 [n, feature_size], different for other images."""
    backbone = _random(build)
    features = _features(backbone, _images(backbone, 2))
    wanted = (torch.float32, (2, backbone.feature_size))
    given = (features.dtype, tuple(features.shape))
    require(given == wanted, f"it gives {given}, not {wanted}")
    require(bool(torch.isfinite(features).all()), "features are not finite")
    require(not _close(features[0], features[1]), "two images have the same feature")


def it_is_ready_to_run(build: Build) -> None:
    """In eval mode; the same image gives the same feature again."""
    backbone = _random(build)
    training = [name for name, each in backbone.module.named_modules() if each.training]
    require(not training, f"in training mode: {training[:3]}; call .eval()")
    images = _images(backbone, 1)
    same = torch.equal(_features(backbone, images), _features(backbone, images))
    require(same, "the same image has another feature the second time")


def no_image_depends_on_its_neighbours(build: Build) -> None:
    """Up to rounding."""
    backbone = _random(build)
    images = _images(backbone, 3)
    alone = torch.cat([_features(backbone, image[None]) for image in images])
    require(_close(_features(backbone, images), alone), "a batch gives other features")


def random_weights_are_always_the_same(build: Build) -> None:
    """Whatever the state of torch's own generator; weights_id as well."""
    first = _random(build)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        again = build("random")
    images = _images(first, 1)
    require(_close(_features(first, images), _features(again, images)), "other features")
    require(first.weights_id == again.weights_id, "another weights_id")


def unknown_weights_are_an_error(build: Build) -> None:
    """A MrnnError that says what there is."""
    try:
        build("no-such-weights")
    except MrnnError as error:
        require(error.hint, f"the error has no hint: {error}")
    else:
        raise AssertionError("it takes the weights 'no-such-weights', which are none")


def it_keeps_stdout_clean(build: Build) -> None:
    """Where results go that a program reads."""
    with redirect_stdout(io.StringIO()) as out:
        build("random")
    require(not out.getvalue(), f"building it prints {out.getvalue()!r}")


CHECKS: tuple[Callable[[Build], None], ...] = (
    it_says_what_it_is,
    pixels_become_features,
    it_is_ready_to_run,
    no_image_depends_on_its_neighbours,
    random_weights_are_always_the_same,
    unknown_weights_are_an_error,
    it_keeps_stdout_clean,
)


@lru_cache(maxsize=1)
def _random(build: Build) -> Backbone:
    """Build once for all checks of one backbone; some take a second or more."""
    return build("random")


def _images(backbone: Backbone, count: int) -> Tensor:
    """Return different images, uint8 [n, h, w, 3], the later the darker."""
    size = backbone.preprocess
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count, size.height, size.width, 3), generator=generator)
    return (noise // torch.arange(1, count + 1).reshape(-1, 1, 1, 1)).to(torch.uint8)


def _features(backbone: Backbone, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = backbone.module(images)
    return features


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
