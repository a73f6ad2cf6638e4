"""What makers and measurers of bundles need beside ``mrnn_runtime``: our exporters, or your own.

A bundle is its files and then its manifest: write the graphs, ``tokenizer.json`` and what else
belongs to it into a folder, and ``write_manifest`` adds checksums and checks the whole as loading
would. ``load`` the folder, and ``record_golden`` and ``save_background`` give two more files, after
which the manifest is written again. ``build_references`` and ``save_references`` make the folder
that consensus reranking needs.
"""

from mrnn_runtime.bundle.loading import read_manifest, write_manifest
from mrnn_runtime.bundle.tokenizer_file import APOSTROPHES, GLUE, WORD
from mrnn_runtime.captioner import find_model
from mrnn_runtime.decoding.candidates import CaptionSearch, blaming
from mrnn_runtime.decoding.confidence import SIGNALS, Calibration, signals
from mrnn_runtime.engine.flat import FLAT_GOLDEN, FlatModel, golden_images, open_flat
from mrnn_runtime.engine.golden import record_golden
from mrnn_runtime.engine.parallel import in_order
from mrnn_runtime.engine.prepared import cache_folder
from mrnn_runtime.engine.providers import load_onnxruntime
from mrnn_runtime.engine.safety import MOST_TRIPS
from mrnn_runtime.engine.sessions import Session, cores, make_session
from mrnn_runtime.images import IMAGE_SUFFIXES, find_images
from mrnn_runtime.plugins.hookspecs import CONTRACT
from mrnn_runtime.plugins.manager import manager
from mrnn_runtime.reranking.building import build_references, replace_references
from mrnn_runtime.reranking.neighbours import check_dtype
from mrnn_runtime.reranking.references import save_references
from mrnn_runtime.reranking.similarity import cider_d
from mrnn_runtime.retrieval.gallery import joined
from mrnn_runtime.retrieval.ranking import log_mean, save_background
from mrnn_runtime.retrieval.scorer import Scorer, load_scorer

__all__ = [
    "APOSTROPHES",
    "CONTRACT",
    "FLAT_GOLDEN",
    "GLUE",
    "IMAGE_SUFFIXES",
    "MOST_TRIPS",
    "SIGNALS",
    "WORD",
    "Calibration",
    "CaptionSearch",
    "FlatModel",
    "Scorer",
    "Session",
    "blaming",
    "build_references",
    "cache_folder",
    "check_dtype",
    "cider_d",
    "cores",
    "find_images",
    "find_model",
    "golden_images",
    "in_order",
    "joined",
    "load_onnxruntime",
    "load_scorer",
    "log_mean",
    "make_session",
    "manager",
    "open_flat",
    "read_manifest",
    "record_golden",
    "replace_references",
    "save_background",
    "save_references",
    "signals",
    "write_manifest",
]
