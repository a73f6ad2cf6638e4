"""Golden vectors: what a model computed at export, to be computed again where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.archives import read_archive
from mrnn_runtime.engine.providers import PROVIDERS
from mrnn_runtime.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.plugins.contracts import Encoder, StepModel

GOLDEN = "golden.npz"
# What a replay may differ by: on the CPU, and on another provider. Whole numbers are added without
# error everywhere, but a product that lies between two of them may be rounded to either, and what
# follows differs by a step of the scale.
TOLERANCES = {"fp32": (1e-4, 1e-2), "int8": (0.25, 0.25)}


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How far a replay is from the recording.

    Attributes:
        differences: by the name of the array, the largest difference: of log_probs as it is, of the
            encoder's outputs as a share of the largest value where that is above 1.
        tolerance: what a difference may be.
    """

    differences: Mapping[str, float]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether no difference is too large; one that is no number is."""
        return all(difference <= self.tolerance for difference in self.differences.values())


def record_golden(
    encoder: Encoder, model: StepModel, images: NDArray[np.uint8], tokens: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Encode images and feed tokens to them, whatever the model would have chosen itself.

    Args:
        encoder: the model's encoder.
        model: its language half.
        images: uint8 [n, h, w, 3].
        tokens: int64 [t, n], the tokens of t steps, bos first.

    Returns:
        The arrays of ``golden.npz``: image and token as given, encoder/NAME [n, ...] for each
        output of the encoder, and log_probs float32 [t, n, V].
    """
    encoded = encoder.encode(images)
    state = model.start(encoded)
    log_probs = np.empty((*tokens.shape, model.vocabulary_size), np.float32)
    for step, row in zip(tokens, log_probs, strict=True):
        scores, state = model.step(step, state, 0, full=True)
        row[:] = scores.log_probs
    outputs = {**encoded.inputs, "reference_feature": encoded.reference_feature}
    named = {f"encoder/{name}": array for name, array in outputs.items()}
    return {"image": images, "token": tokens, **named, "log_probs": log_probs}


def replay_golden(bundle: Bundle, encoder: Encoder, model: StepModel) -> GoldenReport:
    """Compute a bundle's golden vectors again and compare.

    Raises:
        BundleError: the bundle has none, or they are not of this model.
    """
    path = bundle.file(GOLDEN)
    try:
        recorded = read_archive(path)
        if recorded["log_probs"].shape != (*recorded["token"].shape, model.vocabulary_size):
            raise ValueError("log_probs must be [t, n, V], of token [t, n]")
        replayed = record_golden(encoder, model, recorded["image"], recorded["token"])
        differences = {
            name: _difference(name, recorded[name], array)
            for name, array in replayed.items()
            if name not in ("image", "token")
        }
    except (UsageError, ValueError, TypeError, LookupError) as error:
        raise BundleError(
            f"{path} cannot be replayed: {error}", hint="export the bundle again"
        ) from error
    on_cpu, elsewhere = TOLERANCES.get(bundle.precision, TOLERANCES["int8"])
    return GoldenReport(differences, on_cpu if encoder.provider == PROVIDERS["cpu"] else elsewhere)


def _difference(name: str, recorded: NDArray[Any], replayed: NDArray[Any]) -> float:
    if (recorded.dtype, recorded.shape) != (replayed.dtype, replayed.shape):
        raise ValueError(f"{name} is {recorded.dtype} {recorded.shape} in it")
    largest = float(np.abs(recorded - replayed).max(initial=0))
    if name == "log_probs":
        return largest
    return largest / max(1.0, float(np.abs(recorded).max(initial=0)))
