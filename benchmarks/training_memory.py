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

import numpy as np

SIZES = (1_000, 10_000, 100_000)
WIDTH, CAPTIONS, WORDS = 1408, 5, 2000


def measure(photos: int) -> dict[str, float]:
    """Return the MB that a process of so many photos has at the end of an epoch."""
    from torch.utils.data import BatchSampler

    from mrnn_exporters.datasets import Example
    from mrnn_exporters.shards import Store
    from mrnn_exporters.tokenizer import build_tokenizer
    from mrnn_exporters.train import CaptionDataset, EpochSampler, collate

    random = np.random.default_rng(0)
    names = [f"{i:07}" for i in range(photos)]
    words = [f"w{i}" for i in range(WORDS)]
    tokenizer = build_tokenizer([" ".join(words)], 1)
    with TemporaryDirectory() as scratch:
        store = Store(Path(scratch), WIDTH)
        for start in range(0, photos, 1000):
            noise = random.standard_normal((1000, WIDTH)).astype(np.float16)
            store.add(names[start : start + 1000], noise)
        before = anonymous()
        examples = [
            Example(Path(name), tuple(" ".join(words[i] for i in ids) for ids in drawn))
            for name in names
            for drawn in (random.integers(WORDS, size=(CAPTIONS, 10)),)
        ]
        read = anonymous()
        rows = store.read(names)
        mapped = anonymous()
        data = CaptionDataset(examples, [rows], tokenizer, 30)
        del examples  # as mrnn train does
        sampler = EpochSampler(data, num_replicas=1, rank=0)
        for batch in BatchSampler(sampler, 256, drop_last=True):
            collate([data[key] for key in batch])
        return {
            "photos": photos,
            "features_on_disk_mb": round(sum(shard.nbytes for shard in rows.shards) / 1e6, 1),
            "captions_as_text_mb": round(read - before, 1),
            "features_mb": round(mapped - read, 1),
            "training_mb": round(anonymous() - before, 1),
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
