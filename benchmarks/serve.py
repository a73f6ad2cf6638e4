"""How much of the runtime's throughput the server keeps, and how long its clients wait.

    python benchmarks/serve.py --photos DIR [--model NAME|DIR] [--count N] [--clients N]
        [--repeats N] [--json FILE]

Both sides take turns on the same photos: ``captioner.caption`` as ``mrnn caption DIR`` calls it, in
this process and without its start, and ``mrnn serve`` in another process, asked by clients that
send one photo each, over and over. The clients share the machine with the server, which is counted
against it. Then requests come at random moments, half as many a second as the clients got answered,
and their latency is compared with that of a client who is alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from turns import in_turns

from mrnn_runtime import load
from mrnn_runtime.build import cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextmanager
def served(*options: str) -> Iterator[int]:
    """Run ``mrnn serve`` and give its port."""
    command = [sys.executable, "-m", "mrnn_runtime", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if port is None:
            raise SystemExit(line + process.stderr.read())
        # Its log must be read, or it waits for that; nobody wants to see it here.
        reader = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield int(port[1])
        finally:
            process.terminate()
            process.wait()
            reader.wait()


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        """Connect at the first photo."""
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def caption(self, photo: bytes) -> float:
        """Send a photo; return the seconds until its caption was here."""
        began = time.perf_counter()
        if self._streams is None or self._streams[0].at_eof():  # idle ones are closed after a while
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = (
            f"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(photo)}\r\n\r\n"
        )
        writer.write(head.encode() + photo)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        if not answer.startswith(b"HTTP/1.1 200") or length is None:
            raise SystemExit(f"the server answered {answer!r}")
        await reader.readexactly(int(length[1]))
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()


async def closed_loop(port: int, photos: Sequence[bytes], clients: int) -> list[float]:
    """Let clients send all photos, each one after its last answer; return the latencies."""
    rest = iter(photos)

    async def work() -> list[float]:
        client = Client(port)
        latencies = [await client.caption(photo) for photo in rest]
        client.close()
        return latencies

    parts = await asyncio.gather(*(work() for _ in range(clients)))
    return list(itertools.chain(*parts))


async def open_loop(port: int, photos: Sequence[bytes], a_second: float) -> list[float]:
    """Send photos at random moments, so many a second; return the latencies."""
    moments = random.Random(0)
    idle: list[Client] = []

    async def ask(photo: bytes) -> float:
        client = idle.pop() if idle else Client(port)
        latency = await client.caption(photo)
        idle.append(client)
        return latency

    asked = []
    for photo in photos:
        asked.append(asyncio.create_task(ask(photo)))
        await asyncio.sleep(moments.expovariate(a_second))
    latencies = list(await asyncio.gather(*asked))
    for client in idle:
        client.close()
    return latencies


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = sorted(args.photos.rglob("*.jpg"))[: args.count]
    photos = [path.read_bytes() for path in paths]
    captioner = load(args.model, provider="cpu", threads=1)
    model = ["--model", args.model] if args.model else []
    with served("--provider", "cpu", *model) as port:
        folder, server = in_turns(
            args.repeats,
            lambda: list(captioner.caption(paths, workers=cores())),
            lambda: asyncio.run(closed_loop(port, photos, args.clients)),
        )
        rate = len(photos) / statistics.median(server)
        alone = asyncio.run(closed_loop(port, photos[: len(photos) // 4], 1))
        half = sorted(asyncio.run(open_loop(port, photos, rate / 2)))
    pairs = [ours / theirs for ours, theirs in zip(folder, server, strict=True)]
    facts = {
        "photos": len(photos),
        "folder_photos_a_second": len(photos) / statistics.median(folder),
        "server_photos_a_second": rate,
        "share": statistics.median(pairs),
        "alone_ms": 1000 * statistics.median(alone),
        "half_load_p50_ms": 1000 * statistics.median(half),
        "half_load_p95_ms": 1000 * half[int(0.95 * len(half))],
    }
    facts["p95_over_alone"] = facts["half_load_p95_ms"] / facts["alone_ms"]
    for name, value in facts.items():
        print(f"{name:24} {value:10.2f}")
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
