"""A model that was flattened: one ONNX file with the whole search in it, and how it is checked.

The file says in its metadata what it is. Its golden vectors are there too: what it made of two
images that are drawn by rule, so that the file need not hold them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.engine.golden import TOLERANCES, GoldenReport
from mrnn_runtime.engine.providers import PROVIDERS
from mrnn_runtime.engine.sessions import Session, make_session
from mrnn_runtime.errors import BundleError
from mrnn_runtime.types import MOST_PIXELS_A_SIDE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FLAT_GOLDEN = "mrnn.golden"
_MOST_GOLDEN = 2**20  # characters; some thousand are needed
_RECORDED = ("token", "length", "log_prob", "score")
_HINT = "make it again with mrnn flatten"


@dataclass(frozen=True, slots=True)
class FlatModel:
    """A flattened model that is ready to run.

    Attributes:
        session: image uint8 [n, h, w, 3] -> caption string [n, m, t], token int64 [n, m, t], length
            int64 [n, m], log_prob and score float32 [n, m], finished bool [n, m]; m captions of at
            most t words, best first.
        facts: the metadata of the file.
    """

    session: Session
    facts: Mapping[str, str]

    def record(self) -> dict[str, NDArray[Any]]:
        """Return what is made of the two golden images: token, length, log_prob and score."""
        (image,) = self.session.inputs
        _, height, width, _ = (size if isinstance(size, int) else 256 for size in image.shape)
        if max(height, width) > MOST_PIXELS_A_SIDE:
            raise ValueError(f"the image is {height} x {width}")
        images = golden_images(height, width)
        return dict(zip(_RECORDED, self.session.run(_RECORDED, {image.name: images}), strict=True))

    def replay(self) -> GoldenReport:
        """Compute the golden vectors again and compare.

        ``caption`` in the report is the share of captions whose words are others.

        Raises:
            BundleError: the file has none.
        """
        try:
            if len(self.facts[FLAT_GOLDEN]) > _MOST_GOLDEN:
                raise ValueError("they are too large")
            golden = json.loads(self.facts[FLAT_GOLDEN])
            recorded = {name: np.array(golden[name]) for name in _RECORDED}
            replayed = self.record()
            differences = {
                name: _difference(recorded[name], replayed[name]) for name in ("log_prob", "score")
            }
            same = (recorded["token"] == replayed["token"]).all(axis=-1)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise BundleError(
                f"the golden vectors cannot be replayed: {error}", hint=_HINT
            ) from error
        differences["caption"] = float(np.mean(~same))
        on_cpu, elsewhere = TOLERANCES.get(self.facts.get("mrnn.precision", ""), TOLERANCES["int8"])
        here = self.session.provider == PROVIDERS["cpu"]
        return GoldenReport(differences, on_cpu if here else elsewhere)


def open_flat(path: Path, provider: str = "auto", threads: int = 0) -> FlatModel:
    """Start a file that ``mrnn flatten`` made.

    Args:
        path: the file.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; only ``auto`` may fall back.
        threads: CPU threads that share one run; 0 takes one a core.

    Raises:
        UsageError: there is no such provider.
        ProviderError: the provider is not really there.
        BundleError: it is no such file.
    """
    session = make_session(path, provider, threads, files=(), flattened=True)
    facts = session.native.get_modelmeta().custom_metadata_map
    if "mrnn.format" not in facts:
        raise BundleError(f"{path} was not made by mrnn flatten", hint=_HINT)
    return FlatModel(session, facts)


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the largest one; both are -inf where an image has fewer captions."""
    return float(np.abs(np.subtract(a, b, out=np.zeros(a.shape), where=a != b)).max())


def golden_images(height: int, width: int) -> NDArray[np.uint8]:
    """Return two images that are drawn by rule, uint8 [2, h, w, 3].

    The pixel of image i in row y, column x and channel c is (y (i + 1) + 2 x + 80 c) mod 256.
    """
    image, y, x, channel = np.ogrid[:2, :height, :width, :3]
    drawn: NDArray[np.uint8] = ((y * (image + 1) + 2 * x + 80 * channel) % 256).astype(np.uint8)
    return drawn
