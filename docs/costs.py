"""Write what clusters and trainings cost into their pages: ``python docs/costs.py``.

Rates are those of benchmarks/*.json; what follows from them is computed here, so the pages follow
when a benchmark has run again. A page holds each block between two comments with its name. A test
fails where a page is stale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
# Nodes, and the photos of a part with which one program keeps up with them.
CLUSTERS = ((10, 1024), (100, 8192), (1000, 65536))
CORES = 16  # of a node, each with a worker
REQUEST = 2**22  # bytes of a tar, as mrnn_ray.parts asks for them
COCO, VIEWS, CAPTIONS, EPOCHS, WIDTH = 118_287, 2, 5, 20, 1408
ENTRY = 2 * WIDTH + 20  # bytes of a feature, its key and its checksum
MEASURED_CORES = 2


def cluster() -> str:
    """Return what was measured of a cluster, and the table to 1,000 nodes."""
    known = _read("cluster")
    one, two = known["actors_1"], known["actors_2"]
    text = f"""\
A part costs {known["part_ms"]} ms beside its photos, its file written and read again included, and
with two workers {known["parts_per_second"]} parts a second are done, on cores that the program
that hands them out also needs (`python benchmarks/cluster.py --overhead`).

With the model `{known["model"]}` and {known["photos"]:,} photos on {known["machine"]}
(`python benchmarks/cluster.py FOLDER`): a worker takes {max(one["actor_mb"], two["actor_mb"])} MB
at most, its share of Ray and onnxruntime included, and a cluster of this machine captions its
first photo after about {max(one["start_up"], two["start_up"]):.0f} s. Two workers made
{two["rate"]:.1f} photos a second, one {one["rate"]:.1f}, `mrnn caption` {known["alone"]:.1f} just
before."""
    if known["equal"]:
        text += " The records were the same."
    rows = []
    for nodes, part in CLUSTERS:
        alone = part / one["rate"]
        share = alone / (alone + known["part_ms"] / 1000)
        rate = nodes * CORES * one["rate"] * share
        parts = rate / part
        assert parts < known["parts_per_second"], "one program does not keep up: larger parts"
        read = rate * known["photo_kb"] * 1000
        rows.append(
            (
                f"{nodes:,}",
                f"{_two(rate):,}",
                f"{part:,}",
                f"{parts:.1f}",
                f"{_two(read / 1e7) / 100:g} GB/s",
                f"{_two(2 * rate):,}/s",
                f"{_two(read / REQUEST + parts):,}/s",
                f"{_two(rate * known['record_bytes'] / 1e4) / 100:g} MB/s",
                _time(1e8 / rate),
            )
        )
    lost = CLUSTERS[-1][1] / one["rate"]
    heads = (
        "nodes",
        "photos/s",
        "`--part`",
        f"parts/s, of {known['parts_per_second']}",
        "read from the bucket",
        "requests, single photos",
        "requests, tars of a part",
        "JSON lines written",
        "100 million photos",
    )
    return f"""{text}

Computed from that, with {CORES} workers a node that are each as fast as the one above, and photos
of {known["photo_kb"]:.0f} kB:

{_table(heads, rows)}

A single photo takes two requests, for its size and for its bytes; a tar takes one for its size and
one for every {REQUEST // 2**20} MiB; the file of a part is written by one more. No cluster of that
size was run. A part of {CLUSTERS[-1][1]:,} photos takes a worker {_time(lost)}, which is what is
lost with it; where that is too much, start several runs, each over a part of the bucket."""


def memory() -> str:
    """Return what a process of a training takes, by photos."""
    rows = [
        (
            f"{one['photos']:,}",
            f"{one['features_on_disk_mb']}",
            f"{one['captions_as_text_mb']}",
            f"{one['training_mb']}",
        )
        for one in _read("training_memory")
    ]
    heads = ("photos", "features on disk", "captions as text, while they are read", "training")
    return _table(heads, rows)


def coco() -> str:
    """Return the table of a training on COCO."""
    step = _read("training_step")
    photo = next(
        row["ours"]
        for row in _read("end_to_end")["parts"]["folder"]["rows"]
        if row["what"] == "folder of 500, 2 cores, greedy"
    )
    batch = step["batch_size"]
    features, steps, training = [], [], []
    for devices in (1, 8):
        features.append(COCO * VIEWS * photo / 1000 / devices)
        mine = -(-COCO * CAPTIONS // devices)
        steps.append(mine // batch * EPOCHS)
        training.append(steps[-1] * step["core_seconds"] / MEASURED_CORES)
    disk = f"{COCO * VIEWS * ENTRY / 1e9:.2f} GB"
    rows = [
        ("features, once", *(_time(seconds) for seconds in features)),
        ("steps", *(f"{count:,}" for count in steps)),
        ("training", *(_time(seconds) for seconds in training)),
        ("features on disk, which all processes map", disk, disk),
        ("gradients exchanged a step, each process", "none", f"{step['parameters'] * 4e-6:.0f} MB"),
    ]
    return f"""\
Computed, not measured: {COCO:,} photos with two views and {COCO * CAPTIONS:,} captions, {EPOCHS}
epochs with batches of {batch}. It takes what was measured on two cores of a server, {photo:.1f} ms
for a photo to be read and to go through the CNN (`benchmarks/README.md`, the folder of 500,
greedy) and {step["core_seconds"]:.2f} s of one core a step with {step["vocabulary"]:,} words
(`python benchmarks/training_step.py`), calls two such cores a device, and lets eight of them be
eight times as fast:

{_table(("", "1 device", "8 devices"), rows)}"""


BLOCKS = {
    "how-to/cluster.md": (cluster,),
    "how-to/train-coco.md": (memory, coco),
}


def pages() -> dict[Path, str]:
    """Return the pages as they are to be."""
    written = {}
    for name, blocks in BLOCKS.items():
        path = HERE / name
        text = path.read_text(encoding="utf-8")
        for block in blocks:
            mark = f"<!-- docs/costs.py: {block.__name__} -->\n"
            before, start, rest = text.partition(mark)
            _, end, after = rest.partition("\n<!-- to here -->")
            assert start and end, f"{path}: {mark}"
            text = f"{before}{start}{block()}{end}{after}"
        written[path] = text
    return written


def _read(name: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


def _two(number: float) -> int:
    """Round to two digits, and to a whole number."""
    return round(float(f"{number:.1e}"))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
