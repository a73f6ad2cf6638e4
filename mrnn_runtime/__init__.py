"""Image captions on ONNX Runtime: the m-RNN as a light runtime with plugins.

    from mrnn_runtime import load

    captioner = load("flickr8k", provider="cpu")
    for caption in captioner.caption(["a.jpg", "photos/"]):
        print(caption.path, caption.text)

``__all__`` is the public interface, imported at first use: ``import mrnn_runtime`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrnn_runtime.bundle.loading import load_bundle
    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.captioner import Captioner, load
    from mrnn_runtime.errors import (
        BundleError,
        ImageError,
        MrnnError,
        PluginError,
        ProviderError,
        UsageError,
    )
    from mrnn_runtime.images import read_image
    from mrnn_runtime.plugins.contracts import (
        Backbone,
        Component,
        Decoder,
        Encoder,
        Explainer,
        Reranker,
        State,
        StepModel,
    )
    from mrnn_runtime.plugins.hookspecs import hookimpl
    from mrnn_runtime.plugins.manager import PluginManager
    from mrnn_runtime.reranking.references import References, load_references
    from mrnn_runtime.retrieval.gallery import Gallery, open_gallery
    from mrnn_runtime.retrieval.ranking import Match, find_photos, rank_sentences
    from mrnn_runtime.types import (
        Candidate,
        Caption,
        CaptionCandidate,
        DecodeChanges,
        DecodeOptions,
        EncodedImages,
        ImageSource,
        Neighbour,
        Preprocess,
        RerankOptions,
        Scores,
        SpecialTokens,
    )

    __version__: str

__all__ = [
    "Backbone",
    "Bundle",
    "BundleError",
    "Candidate",
    "Caption",
    "CaptionCandidate",
    "Captioner",
    "Component",
    "DecodeChanges",
    "DecodeOptions",
    "Decoder",
    "EncodedImages",
    "Encoder",
    "Explainer",
    "Gallery",
    "ImageError",
    "ImageSource",
    "Match",
    "MrnnError",
    "Neighbour",
    "PluginError",
    "PluginManager",
    "Preprocess",
    "ProviderError",
    "References",
    "RerankOptions",
    "Reranker",
    "Scores",
    "SpecialTokens",
    "State",
    "StepModel",
    "UsageError",
    "__version__",
    "find_photos",
    "hookimpl",
    "load",
    "load_bundle",
    "load_references",
    "open_gallery",
    "rank_sentences",
    "read_image",
]

_MEMBERS = {
    "bundle.loading": ("load_bundle",),
    "bundle.manifest": ("Bundle",),
    "captioner": ("Captioner", "load"),
    "reranking.references": ("References", "load_references"),
    "plugins.contracts": (
        "Backbone",
        "Component",
        "Decoder",
        "Encoder",
        "Explainer",
        "Reranker",
        "State",
        "StepModel",
    ),
    "errors": (
        "BundleError",
        "ImageError",
        "MrnnError",
        "PluginError",
        "ProviderError",
        "UsageError",
    ),
    "images": ("read_image",),
    "retrieval.gallery": ("Gallery", "open_gallery"),
    "plugins.hookspecs": ("hookimpl",),
    "plugins.manager": ("PluginManager",),
    "retrieval.ranking": ("Match", "find_photos", "rank_sentences"),
    "types": (
        "Candidate",
        "Caption",
        "CaptionCandidate",
        "DecodeChanges",
        "DecodeOptions",
        "EncodedImages",
        "ImageSource",
        "Neighbour",
        "Preprocess",
        "RerankOptions",
        "Scores",
        "SpecialTokens",
    ),
}
_HOME = {name: module for module, names in _MEMBERS.items() for name in names}


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
