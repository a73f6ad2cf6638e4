"""Send a server thousands of requests of all kinds, good and bad, and watch it.

    python tests/robustness/serve_soak.py --requests 10000

Of twenty requests: ten photos, two of them several at once; options that do not fit; broken photos;
photos that are too large; bodies that are too large, or no JSON; clients that send slowly, that
leave in the middle of a body, and that leave before the answer. Then SIGTERM comes while all go on.
Ends with exit code 1 where an answer is a 5xx other than 503, an answer has another status than its
request deserves, a request has no answer though the server was not told to stop or took it,
resident memory of the server grows by more than --growth percent after the first fifth, or the
server does not stop with exit code 0. Linux only.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from mrnn_runtime import testing

CLIENTS = 16
GOOD, LEFT = "200", "left"


def make_photos():
    noise = np.random.default_rng(0)
    photos = []
    for place in range(8):
        width, height = noise.integers(50, 600, 2)
        coarse = noise.integers(0, 256, (9, 12, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((width, height)).save(
            file, ("JPEG", "PNG", "WEBP")[place % 3]
        )
        photos.append(file.getvalue())
    return photos


def request(path, body, kind="application/octet-stream", *, length=None):
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def as_json(path, **fields):
    return request(path, json.dumps(fields).encode(), "application/json")


def make_requests(photos):
    """Return per kind the bytes, the status that is due (503 may be, too), and how to send it."""
    photo, second = photos[:2]
    encoded = [base64.b64encode(one).decode() for one in photos]
    large = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(large, "PNG")
    url = f"data:image/jpeg;base64,{encoded[0]}"
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    whole, slow, cut, leave = "whole", "slow", "cut", "leave"
    return [
        *((request("/v1/caption", one), GOOD, whole) for one in photos[:4]),
        (request("/v1/caption?n_best=3&beam_size=5", second), GOOD, whole),
        (as_json("/v1/caption", images=encoded[:4]), GOOD, whole),
        (as_json("/v1/search?sentence=a+dog", images=encoded), GOOD, whole),
        (as_json("/api/generate", model="tiny", prompt="?", images=encoded[:1]), GOOD, whole),
        (as_json("/v1/chat/completions", model="tiny", messages=[message]), GOOD, whole),
        (as_json("/api/v1/vision/caption", images=[url]), GOOD, whole),
        (request("/v1/caption?beam_size=0", photo), "400", whole),
        (request("/v1/caption", photo[: len(photo) // 2]), "422", whole),
        (request("/v1/caption", b"no photo"), "422", whole),
        (request("/v1/caption", large.getvalue()), "422", whole),
        (request("/v1/caption", bytes(100), length=10**10), "413", whole),
        (request("/v1/caption", b"{]", "application/json"), "400", whole),
        (request("/v1/caption", photo), GOOD, slow),
        (request("/v1/caption", photo), LEFT, cut),
        (request("/v1/caption", second), LEFT, leave),
        (as_json("/v1/caption", images=encoded), LEFT, leave),
    ]


async def send(port, data, manner, number):
    """Send one request; return the status, or LEFT."""
    first, _, rest = data.partition(b"\r\n")
    data = b"%s\r\nX-Request-ID: soak-%d\r\n%s" % (first, number, rest)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if manner == "slow":
            for part in range(0, len(data), max(1, len(data) // 5)):
                writer.write(data[part : part + max(1, len(data) // 5)])
                await writer.drain()
                await asyncio.sleep(0.02)
        else:
            writer.write(data[: len(data) // 2] if manner == "cut" else data)
            await writer.drain()
        if manner in ("cut", "leave"):
            return LEFT
        answer = await asyncio.wait_for(reader.read(), 120)
        return re.match(rb"HTTP/1.1 (\d+)", answer)[1].decode()
    finally:
        writer.close()


async def soak(port, process, count):
    """Send so many requests and then SIGTERM, and go on until the server is gone.

    Returns:
        How often each kind of request had which answer, the memory in MB over time, and the numbers
        of the requests that had no answer after SIGTERM.
    """
    kinds = make_requests(make_photos())
    order = random.Random(0)
    answers, memory, refused = Counter(), [], set()
    numbers = itertools.count()
    stopping = False

    async def client():
        nonlocal stopping
        for number in numbers:
            if number == count:
                stopping = True
                process.terminate()
            data, expected, manner = kinds[order.randrange(len(kinds))]
            try:
                answers[expected, await send(port, data, manner, number)] += 1
            except (OSError, TypeError, TimeoutError) as error:
                if stopping:
                    refused.add(number)
                    return
                answers[expected, f"no answer: {error!r}"] += 1
            if number % 100 == 0 and not stopping:
                status = Path(f"/proc/{process.pid}/status").read_text()
                memory.append(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024)
            if number % 1000 == 0:
                print(f"{number} requests: {memory[-1]:.1f} MB", file=sys.stderr, flush=True)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answers, memory, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--growth", type=float, default=10.0, help="percent")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        bundle = testing.tiny_bundle(Path(folder, "bundle"))
        command = [sys.executable, "-m", "mrnn_runtime", "serve", "--port", "0"]
        limits = ["--model", str(bundle), "--queue", "32", "--max-photos", "16", "--max-body", "4"]
        with subprocess.Popen([*command, *limits], stderr=log) as process:
            port = None
            while port is None and process.poll() is None:
                time.sleep(0.1)
                log.seek(0)
                port = re.search(r"http://127\.0\.0\.1:(\d+)", log.read())
            began = time.monotonic()
            answers, memory, refused = asyncio.run(soak(int(port[1]), process, args.requests))
            seconds = time.monotonic() - began
            process.wait(120)
        log.seek(0)
        text = log.read()
    failures = [] if process.returncode == 0 else [f"exit code {process.returncode}"]
    failures += ["a traceback in the log"] if "Traceback" in text else []
    taken = {int(number) for number in re.findall(r" id=soak-(\d+) .* status=(?!499)\d+ ", text)}
    print(f"after SIGTERM: {len(refused)} requests refused")
    if lost := taken & refused:
        failures.append(f"{len(lost)} requests were taken and not answered")
    logged = Counter(re.findall(r" status=(\d+) ", text))
    failures += [f"{status}: {n} times" for status, n in logged.items() if status in ("500", "502")]
    for (expected, got), number in sorted(answers.items()):
        print(f"expected {expected:5} got {got:5} {number:6} times")
        if got not in (expected, "503"):
            failures.append(f"{expected} expected, {got} came {number} times")
    warm = max(1, len(memory) // 5)
    before, after = (statistics.median(part) for part in (memory[warm : 2 * warm], memory[-warm:]))
    growth = 100 * (after / before - 1)
    print(f"log: {dict(sorted(logged.items()))}; {args.requests / seconds:.0f} requests a second")
    print(f"memory: {before:.1f} MB, then {after:.1f} MB ({growth:+.1f} %)")
    if growth > args.growth:
        failures.append(f"memory grew by {growth:.1f} %")
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
