"""What test_cluster.py looks at, in a process of its own: Ray warns, and keeps threads."""

import json
import os
import sys
from pathlib import Path

import ray

from mrnn_ray import caption_dataset
from mrnn_runtime.cli import main

os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # busy machines
photos, model, scratch, bucket_in, bucket_out = sys.argv[1:]
scratch = Path(scratch)
ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
names = sorted(str(file) for file in Path(photos).rglob("[!.]*.[jp][pn]g"))


def rows(dataset, **options):
    captioned = caption_dataset(
        dataset, model=model, batch_size=8, concurrency=1, provider="cpu", **options
    )
    return sorted(captioned.take_all(), key=lambda row: row["path"])


def command(*args):
    try:
        main(["ray", "caption", *args, "--model", model, "--format", "jsonl", "--part", "8"])
    except SystemExit as end:
        return end.code or 0
    return 0


read = [{"path": name, "bytes": Path(name).read_bytes(), "mine": i} for i, name in enumerate(names)]
result = {
    "bytes": rows(ray.data.from_items(read)),
    "paths": rows(
        ray.data.from_items([{"place": name} for name in names]), column="place", beam_size=1
    ),
    "vectors": len(rows(ray.data.from_items(read[:3]), embeddings=True)[0]["image_term"]),
    "codes": [
        command(photos, "-o", str(scratch / "out"), "--concurrency", "1:2"),
        command(photos, "-o", str(scratch / "out"), "--resume"),
        command(photos, "-o", str(scratch / "out")),
        command(photos, "-o", str(scratch / "bad"), "--decoder", "missing"),
        command(bucket_in, "-o", bucket_out, "--concurrency", "1"),
    ],
}
(scratch / "result.json").write_text(json.dumps(result))
