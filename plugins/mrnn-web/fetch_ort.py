"""Fetches onnxruntime-web, by npm and at the version of package-lock.json, into mrnn_web/ort.

A hook of hatchling runs it when the package is built or installed; `python fetch_ort.py` does the
same by hand. An editable install without npm goes on without; `mrnn web` says so then.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
TARGET = HERE / "mrnn_web" / "ort"
# The smallest of its builds: CPU only. The other two are what it loads.
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
STAMP = TARGET / "version.json"


class Hook(BuildHookInterface[Any]):
    """Runs ``fetch`` where the files are missing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what goes into the package."""
        try:
            fetch()
        except (OSError, subprocess.CalledProcessError):
            if version != "editable":
                raise
            self.app.display_warning("onnxruntime-web was not fetched: is npm there?")


def fetch() -> None:
    """Fetch the files, unless they are there at the locked version.

    Raises:
        OSError: npm is not installed, or a file cannot be written.
        CalledProcessError: npm fails.
    """
    locked = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))
    package = locked["packages"]["node_modules/onnxruntime-web"]
    wanted = json.dumps({"version": package["version"], "integrity": package["integrity"]})
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, scratch)
        # Output would be taken for that of the build.
        subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=scratch,
            check=True,
            stdout=sys.stderr,
        )
        TARGET.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(Path(scratch, "node_modules", "onnxruntime-web", "dist", name), TARGET)
    STAMP.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    fetch()
