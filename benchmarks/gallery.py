"""Galleries on disk: exact search for a sentence, and similar photos through faiss.

    python benchmarks/gallery.py [--model flickr8k] [--photos N] [--faiss N] [--json FILE]

Vectors are made up; what an exact search costs does not depend on them. Those for faiss come in
clusters, as features do; ``recall`` is how many of the ten nearest it finds.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mrnn_runtime import load
from mrnn_runtime.retrieval.ranking import find_photos
from mrnn_runtime.retrieval.stored import open_stored

SENTENCE = "a dog runs over the grass"


def exact(model: str, photos: int) -> dict[str, float]:
    """Search a gallery of so many photos; memory is what the system cannot take back."""
    captioner = load(model, provider="cpu")
    bundle = captioner.bundle
    random = np.random.default_rng(0)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = 0
        for name, array in captioner.encode([]).inputs.items():
            shape = (photos, *array.shape[1:])
            file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)
            for start in range(0, photos, 10_000):
                some = file[start : start + 10_000]
                some[:] = random.standard_normal(some.shape, np.float32)
            size += file.nbytes
        lines = [json.dumps(f"{i:09}.jpg") + "\n" for i in range(photos)]
        (folder / "paths.txt").write_text("".join(lines))
        np.save(folder / "offsets.npy", np.arange(photos + 1) * len(lines[0]))
        sha256 = bundle.files[bundle.encoder.file].sha256
        facts = {"model": bundle.name, "encoder": sha256, "photos": photos}
        (folder / "gallery.json").write_text(json.dumps(facts))
        before = anonymous()
        gallery = open_stored(captioner, folder)
        began = time.perf_counter()
        find_photos(captioner, SENTENCE, gallery, top=10)
        seconds = time.perf_counter() - began
        return {
            "photos": photos,
            "disk_mb": round(size / 1e6),
            "seconds": round(seconds, 2),
            "photos_per_second": round(photos / seconds),
            "memory_mb": round(anonymous() - before),
            "hours_for_10_million": round(1e7 / photos * seconds / 3600, 2),
        }


def through_faiss(photos: int, width: int = 256) -> dict[str, float | str]:
    """Index so many vectors in lists, and look up ten neighbours of some of them."""
    import faiss

    random = np.random.default_rng(0)
    centres = random.standard_normal((2000, width), np.float32)

    def vectors(count: int) -> np.ndarray:
        noise = random.standard_normal((count, width), np.float32)
        return centres[random.integers(0, len(centres), count)] + 0.7 * noise

    index = faiss.index_factory(width, "IVF1024,SQfp16")
    flat = faiss.IndexFlatL2(width)
    began = time.perf_counter()
    index.train(vectors(60_000))
    trained = time.perf_counter() - began
    began, made = time.perf_counter(), 0.0
    for _ in range(0, photos, 50_000):
        start = time.perf_counter()
        some = vectors(50_000)
        made += time.perf_counter() - start
        index.add(some)
        flat.add(some)
    added = time.perf_counter() - began - made
    queries = vectors(50)
    _, wanted = flat.search(queries, 10)
    index.nprobe = 16
    began = time.perf_counter()
    _, nearest = index.search(queries, 10)
    looked_up = (time.perf_counter() - began) / len(queries)
    hits = [len({*a} & {*b}) for a, b in zip(nearest.tolist(), wanted.tolist(), strict=True)]
    return {
        "faiss": version("faiss-cpu"),
        "photos": photos,
        "width": width,
        "train_seconds": round(trained, 1),
        "add_seconds": round(added, 1),
        "query_ms": round(1000 * looked_up, 2),
        "recall_at_10": round(sum(hits) / 10 / len(queries), 3),
        "index_mb": round(photos * (2 * width + 8) / 1e6),
    }


def anonymous() -> float:
    """Return the MB of this process that belong to no file."""
    resident = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(resident[1]) / 1000 if resident else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="flickr8k")
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--faiss", type=int, default=0, metavar="PHOTOS")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures: dict[str, object] = {"exact": exact(given.model, given.photos)}
    print(figures)
    if given.faiss:
        figures["faiss"] = through_faiss(given.faiss)
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
