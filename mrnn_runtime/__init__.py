"""Image captions on ONNX Runtime: the m-RNN as a light runtime with plugins.

    from mrnn_runtime import load

    captioner = load("flickr8k", provider="cpu")
    for caption in captioner.caption(["a.jpg", "photos/"]):
        print(caption.path, caption.text)

The names below are the public interface, imported at first use: ``import mrnn_runtime`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers, which do not read _NAMES
    from mrnn_runtime.bundle.loading import load_bundle as load_bundle
    from mrnn_runtime.bundle.manifest import Bundle as Bundle
    from mrnn_runtime.captioner import Captioner as Captioner
    from mrnn_runtime.captioner import load as load
    from mrnn_runtime.errors import BundleError as BundleError
    from mrnn_runtime.errors import ImageError as ImageError
    from mrnn_runtime.errors import MrnnError as MrnnError
    from mrnn_runtime.errors import PluginError as PluginError
    from mrnn_runtime.errors import ProviderError as ProviderError
    from mrnn_runtime.errors import UsageError as UsageError
    from mrnn_runtime.images import read_image as read_image
    from mrnn_runtime.plugins.contracts import Backbone as Backbone
    from mrnn_runtime.plugins.contracts import Component as Component
    from mrnn_runtime.plugins.contracts import Decoder as Decoder
    from mrnn_runtime.plugins.contracts import Encoder as Encoder
    from mrnn_runtime.plugins.contracts import Explainer as Explainer
    from mrnn_runtime.plugins.contracts import Reranker as Reranker
    from mrnn_runtime.plugins.contracts import State as State
    from mrnn_runtime.plugins.contracts import StepModel as StepModel
    from mrnn_runtime.plugins.hookspecs import hookimpl as hookimpl
    from mrnn_runtime.plugins.manager import PluginManager as PluginManager
    from mrnn_runtime.reranking.references import References as References
    from mrnn_runtime.reranking.references import load_references as load_references
    from mrnn_runtime.retrieval.gallery import Gallery as Gallery
    from mrnn_runtime.retrieval.gallery import open_gallery as open_gallery
    from mrnn_runtime.retrieval.ranking import Match as Match
    from mrnn_runtime.retrieval.ranking import find_photos as find_photos
    from mrnn_runtime.retrieval.ranking import rank_sentences as rank_sentences
    from mrnn_runtime.types import Candidate as Candidate
    from mrnn_runtime.types import Caption as Caption
    from mrnn_runtime.types import CaptionCandidate as CaptionCandidate
    from mrnn_runtime.types import DecodeChanges as DecodeChanges
    from mrnn_runtime.types import DecodeOptions as DecodeOptions
    from mrnn_runtime.types import EncodedImages as EncodedImages
    from mrnn_runtime.types import ImageSource as ImageSource
    from mrnn_runtime.types import Neighbour as Neighbour
    from mrnn_runtime.types import Preprocess as Preprocess
    from mrnn_runtime.types import RerankOptions as RerankOptions
    from mrnn_runtime.types import Scores as Scores
    from mrnn_runtime.types import SpecialTokens as SpecialTokens

    __version__: str

_NAMES = {
    "bundle.loading": "load_bundle",
    "bundle.manifest": "Bundle",
    "captioner": "Captioner load",
    "errors": "BundleError ImageError MrnnError PluginError ProviderError UsageError",
    "images": "read_image",
    "plugins.contracts": "Backbone Component Decoder Encoder Explainer Reranker State StepModel",
    "plugins.hookspecs": "hookimpl",
    "plugins.manager": "PluginManager",
    "reranking.references": "References load_references",
    "retrieval.gallery": "Gallery open_gallery",
    "retrieval.ranking": "Match find_photos rank_sentences",
    "types": "Candidate Caption CaptionCandidate DecodeChanges DecodeOptions EncodedImages "
    "ImageSource Neighbour Preprocess RerankOptions Scores SpecialTokens",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        value = _version()
    elif name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mrnn-runtime")
    except PackageNotFoundError:  # a checkout on the path that nobody installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
