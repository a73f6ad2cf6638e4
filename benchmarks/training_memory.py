"""How the memory of a training grows with the photos: a made-up corpus, features of noise.

    python benchmarks/training_memory.py [--json FILE]

Each size runs in a process of its own, which reads the features from the cache, builds the data set
and goes through an epoch of batches. Counted is what the system cannot take back (``RssAnon``): it
keeps mapped files in memory where there is room, and drops them where there is none.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

SIZES = (1_000, 10_000, 100_000)
WIDTH, CAPTIONS, WORDS = 1408, 5, 2000


def measure(photos: int) -> dict[str, float]:
    """Return the MB that a process of so many photos has at the end of an epoch."""
    from mrnn_exporters import features
    from mrnn_exporters.datasets import Example
    from mrnn_exporters.tokenizer import build_tokenizer
    from mrnn_exporters.train import CaptionDataset, collate

    backbone: Any = SimpleNamespace(feature_size=WIDTH)
    features._identity = lambda _: "net"  # type: ignore[assignment]
    features._stamp = lambda path: path.name  # type: ignore[assignment]
    random = np.random.default_rng(0)
    paths = [Path(f"{i:07}") for i in range(photos)]
    words = [f"w{i}" for i in range(WORDS)]
    tokenizer = build_tokenizer([" ".join(words)], 1)
    with TemporaryDirectory() as scratch:
        cache = Path(scratch)
        with features._store(cache / "features" / "net-plain.sqlite") as store:
            for start in range(0, photos, 1000):
                noise = random.standard_normal((1000, WIDTH)).astype(np.float16)
                features._write(store, [path.name for path in paths[start : start + 1000]], noise)
        before = anonymous()
        examples = [
            Example(path, tuple(" ".join(random.choice(words, 10)) for _ in range(CAPTIONS)))
            for path in paths
        ]
        read = anonymous()
        values = features.features(backbone, paths, "plain", cache)
        mapped = anonymous()
        data = CaptionDataset(examples, [values], tokenizer, 30)
        for start in range(0, len(data) - 256, 256):
            collate([data[start + i, 0] for i in range(256)])
        return {
            "photos": photos,
            "features_on_disk_mb": round(values.nbytes / 1e6, 1),
            "captions_as_text_mb": round(read - before, 1),
            "features_mb": round(mapped - read, 1),
            "data_set_mb": round(anonymous() - mapped, 1),
        }


def anonymous() -> float:
    """Return the MB of this process that belong to no file."""
    resident = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(resident[1]) / 1000 if resident else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        sys.exit()
    rows = []
    for size in SIZES:
        command = [sys.executable, __file__, "--one", str(size)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
        print(rows[-1])
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
