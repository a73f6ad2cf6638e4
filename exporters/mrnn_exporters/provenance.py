"""What a figure must be kept with, so that it can be had again: model, training, code."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrnn_runtime import Bundle

_NET = ("encoder.", "cell.", "tokenizer.")
_PACKAGES = (
    "mrnn-runtime",
    "mrnn-exporters",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "pillow",
    "pycocoevalcap",
)


def model(bundle: Bundle) -> dict[str, str]:
    """Return name, version and ``digest``."""
    return {"name": bundle.name, "version": bundle.version, "sha256": digest(bundle)}


def digest(bundle: Bundle) -> str:
    """Return a SHA-256 of encoder and cell, their weights, and the vocabulary.

    Not of ``readout.onnx`` and ``background.npz``, which are made of these and training photos, nor
    of references, card and defaults.
    """
    files = sorted((n, f.sha256) for n, f in bundle.files.items() if n.startswith(_NET))
    return hashlib.sha256("".join(f"{n} {sum_}\n" for n, sum_ in files).encode()).hexdigest()


def training(bundle: Bundle) -> dict[str, Any]:
    """Return cell, seed and number of epochs, as far as the bundle says."""
    config = bundle.training.get("config")
    config = config if isinstance(config, dict) else {}
    return {
        "cell": config.get("cell"),
        "seed": config.get("seed"),
        "epochs": bundle.training.get("epochs"),
    }


def commit() -> str | None:
    """Return the commit of the checkout that this package is part of, or None.

    A repository that only encloses the environment that the package is installed in has no say.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def run(*args: str) -> str:
        command = [git, "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return run("rev-parse", "HEAD") if run("ls-files", Path(__file__).name) else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # one of onnxruntime's two wheels, or a checkout
            continue
    return installed
