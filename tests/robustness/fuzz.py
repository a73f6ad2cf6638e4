"""Feed hostile photos and bundles to the runtime, and say what became of them.

    python tests/robustness/fuzz.py --images 2000 --bundles 1000 --seed 1

Each must be taken or refused with one of the runtime's own errors. What must not happen, and ends
with exit code 1: a crash of the process, another exception, a warning, a bundle that loads although
its checksums do not fit, a file opened outside the bundle, more than --memory MB, or a case that
computes for more than --seconds. The work is done in child processes, so that a crash is seen; a
case is made again with --only.
"""

import argparse
import ctypes
import json
import logging
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

from mutations import PHOTO, copy_bundle, mutate_bundle, mutated_image, seed_bundle, seed_images
from operators import random_model

import mrnn_runtime
from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.engine.golden import replay_golden
from mrnn_runtime.engine.sessions import make_session
from mrnn_runtime.errors import ImageError, MrnnError
from mrnn_runtime.images import read_image, thumbnail
from mrnn_runtime.retrieval.gallery import open_gallery
from mrnn_runtime.retrieval.ranking import load_background, rank_sentences
from mrnn_runtime.types import Preprocess

BATCH = 100


class Watch:
    """Notices whether anybody, native code too, opens a file of a folder (Linux only)."""

    def __init__(self, folder):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK)
        self._libc.inotify_add_watch(self._inotify, os.fsencode(folder), 0x20)  # IN_OPEN
        if self._inotify < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def opened(self):
        """Return the names of the files that were opened."""
        with suppress(BlockingIOError):
            # An event: four numbers of 4 bytes, the last is the length of the name that follows.
            return os.read(self._inotify, 4096)[16:].rstrip(b"\0").decode(errors="replace")
        return ""

    def close(self):
        os.close(self._inotify)


def image_case(number, seed, scratch, seeds):
    """Read one hostile photo; return what was done to it, and what became of it."""
    data, done = mutated_image(random.Random(f"image {seed} {number}"), seeds)
    path = scratch / "photo.jpg"
    path.write_bytes(data)
    preprocess = Preprocess(24, 32, ("squash", "crop")[number % 2], "bilinear")
    try:
        pixels = read_image(path, preprocess)
        thumbnail(path, 16)
    except ImageError:
        return done, "refused"
    shape, kind = pixels.shape, pixels.dtype.name
    return done, "taken" if (shape, kind) == ((24, 32, 3), "uint8") else f"WRONG: {kind} {shape}"


def metadata_case(number, seed, scratch, seeds):
    """Write a caption into one hostile photo, as --write-metadata does."""
    from mrnn_photos import metadata
    from mrnn_photos.reading import read_file

    data, done = mutated_image(random.Random(f"metadata {seed} {number}"), seeds)
    path = scratch / "photo.jpg"
    path.write_bytes(data)
    try:
        made = metadata.with_caption(read_file(path, 2**28), "a dog")
    except (ImageError, ValueError):
        return done, "refused"
    return done, "taken" if metadata.caption_of(made) == "a dog" else "WRONG: no caption"


def seed_metadata():
    """Return photos with captions, of the formats whose metadata are read in this process."""
    from mrnn_photos import metadata

    seeds = []
    for photo in seed_images():
        if photo.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
            with suppress(ValueError):  # one has XMP that is none
                seeds.append(metadata.with_caption(photo, "a cat"))
    return seeds


def bundle_case(number, seed, scratch, seeds):
    """Load one hostile bundle and use all of it."""
    folder = scratch / "case" / "bundle"
    copy_bundle(seeds, folder)
    outside = folder.parent / "outside"
    done, is_whole = mutate_bundle(folder, random.Random(f"bundle {seed} {number}"))
    same = not is_whole and _contents(folder) == _contents(seeds)
    (scratch / "photo.ppm").write_bytes(PHOTO)
    watch = Watch(outside)
    try:
        became = _use(folder, scratch / "photo.ppm")
    finally:
        opened = watch.opened()
        watch.close()
    if opened:
        return done, f"WRONG: opened {opened} outside of the bundle"
    if became != "refused: load_bundle" and not (is_whole or same):
        return done, f"WRONG: its checksums do not fit, and {became}"
    return done, became


def _use(folder, photo):
    """Do with a bundle all that can be done; say where it is refused."""
    stage = "load_bundle"
    try:
        bundle = load_bundle(folder)
        stage = "load"
        captioner = mrnn_runtime.load(folder, provider="cpu", threads=1)
        stage = "caption"
        list(captioner.caption(photo))
        stage = "golden"
        replay_golden(bundle, captioner.encoder, captioner.model)
        stage = "background"
        load_background(bundle)
        for reranker in ("consensus-cider", "consensus-bleu"):
            stage = reranker
            list(captioner.caption(photo, reranker=reranker, explain=True))
        stage = "rank"
        rank_sentences(captioner, ["a dog runs", "a man"], open_gallery(captioner, [photo]))
    except MrnnError as error:
        assert "\n" not in str(error), f"more than one line: {error}"
        return f"refused: {stage}"
    return "taken"


def operator_case(number, seed, scratch, _):
    """Run a model of one operator, which may fail."""
    model, feeds, done = random_model(random.Random(f"operator {seed} {number}"))
    path = scratch / "operator.onnx"
    path.write_bytes(model)
    try:
        session = make_session(path, "cpu", 1, files=())
        session.run([spec.name for spec in session.outputs], feeds)
    except MrnnError:
        return done, "refused"
    return done, "taken"


def _contents(folder):
    contents = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = Path("bundle.json")
    with suppress(KeyError, ValueError, RecursionError):  # what it says counts, not how
        contents[manifest] = json.loads(contents[manifest])
    return contents


def child(kind, first, last, args):
    """Work through cases, and write one line before and after each."""
    warnings.simplefilter("error")
    logging.disable()
    case, make_seeds = {
        "images": (image_case, seed_images),
        "metadata": (metadata_case, seed_metadata),
        "bundles": (bundle_case, lambda: Path(args.seeds)),
        "operators": (operator_case, lambda: None),
    }[kind]
    seeds = make_seeds()
    # A last resort for the machine; whether it was too much is seen by what was really used.
    resource.setrlimit(resource.RLIMIT_AS, (2 * args.memory * 2**20 + 2**32,) * 2)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(first, last):
            print(json.dumps({"case": number}), flush=True)
            start = time.process_time()
            try:
                done, became = case(number, args.seed, Path(scratch), seeds)
            except BaseException:
                done, became = "?", f"WRONG: {traceback.format_exc()}"
            seconds = time.process_time() - start
            if seconds > args.seconds:
                became = f"WRONG: {became} after {seconds:.0f} s"
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            line = {"case": number, "done": done, "became": became, "memory": used}
            print(json.dumps(line), flush=True)


def run(kind, numbers, args, seeds):
    """Run cases in children; yield the record of each, also of one that killed its child."""
    numbers = list(numbers)
    while numbers:
        first, last = numbers[0], min(numbers[-1] + 1, numbers[0] + BATCH)
        command = [sys.executable, __file__, "--child", kind, str(first), str(last)]
        command += ["--seed", str(args.seed), "--memory", str(args.memory)]
        command += ["--seconds", str(args.seconds), "--seeds", str(seeds)]
        # Graphs may take half of it; a promise that is too large for a fuzzer cannot be seen kept.
        environment = {**os.environ, "MRNN_MEMORY_MB": str(args.memory // 2)}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            current = first
            for line in _lines(process, 20 * args.seconds):
                record = json.loads(line)
                current = record["case"]
                if "became" in record:
                    yield record
                    current += 1
            process.kill()
            said = process.stderr.read()[-300:].decode(errors="replace").strip()
            process.wait()
        if current < last:
            why = "took too long" if process.returncode == -9 else f"died: {process.returncode}"
            yield {"case": current, "done": "?", "became": f"WRONG: {why} {said}", "memory": 0}
            current += 1
        numbers = [number for number in numbers if number >= current]


def _lines(process, seconds):
    """Yield a child's lines until it ends or says nothing for too long."""
    buffer = b""
    while select.select([process.stdout], [], [], seconds)[0]:
        chunk = os.read(process.stdout.fileno(), 65536)
        if not chunk:
            process.wait()
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--metadata", type=int, default=0, help="photos; needs mrnn-photos")
    parser.add_argument("--bundles", type=int, default=0)
    parser.add_argument("--operators", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1024, help="MB that a child may use")
    parser.add_argument("--seconds", type=float, default=20, help="that a case may compute")
    parser.add_argument("--only", type=int, help="work through this case alone, of one kind")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--seeds", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, first, last = args.child
        child(kind, int(first), int(last), args)
        return 0
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder, "bundle")
        seed_bundle(seeds)
        for kind in ("images", "metadata", "bundles", "operators"):
            count = getattr(args, kind)
            numbers = range(count) if args.only is None else [args.only] * bool(count)
            wrong += report(kind, args, run(kind, numbers, args, seeds))
    return 1 if wrong else 0


def report(kind, args, records):
    """Print what became of the cases; return how many went wrong."""
    became, most, wrong, start = Counter(), 0, 0, time.perf_counter()
    for record in records:
        most = max(most, record["memory"])
        if record["became"].startswith("WRONG"):
            wrong += 1
            print(f"{kind} case {record['case']} ({record['done']}): {record['became']}")
        became[
            record["became"].partition(":")[0] if "WRONG" in record["became"] else record["became"]
        ] += 1
    if became:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(became.items()))
        seconds = time.perf_counter() - start
        print(f"{kind}: {counts}; at most {most} MB, {seconds:.0f} s, seed {args.seed}")
    if most > args.memory:
        print(f"{kind}: {most} MB are more than {args.memory}")
        wrong += 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
