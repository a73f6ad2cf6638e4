"""Caption photos with hostile files among them, and say how much memory each run takes.

    python tests/robustness/bombs.py docs/demo/photos --model everyday --copies 10

The hostile files are small, or empty for the most part, and stand for gigabytes or minutes: tiles,
chunks, segments, scans, metadata, and files that go on and on. With --large, there are also some
whose pixels take as much as --memory allows by default.
"""

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image

GREY = Image.new("RGB", (16, 16), (128, 128, 128))
RUN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def saved(form, image=GREY, **options):
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(data, *tags):
    """Put a TIFF of 16 x 16 grey pixels together: tag, type, count, value or many bytes."""
    tags = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 4, 1, 8), (262, 4, 1, 1), (277, 4, 1, 1), *tags]
    entries, more = b"", b""
    start = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in sorted(tags):
        if isinstance(value, bytes):
            value, more = start + len(more), more + value
        entries += struct.pack("<HHII", tag, kind, count, value)
    folder = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + folder + more


def bombs(size=2**25):
    """Return the content of hostile files by name; ``size`` is that of the large ones."""
    png, jpeg = saved("PNG"), saved("JPEG")
    side = 26_000
    deflate = zlib.compressobj()
    tile = (
        b"".join(deflate.compress(bytes(side * 100)) for _ in range(side // 100)) + deflate.flush()
    )
    tiles = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(tile))]
    strip = [(259, 4, 1, 1), (273, 4, 1, 8), (278, 4, 1, 16), (279, 4, 1, 256)]
    scans = saved("JPEG", Image.new("L", (8000, 8000), 90), progressive=True)
    bits = zlib.compress(bytes(size))
    exif = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x112, 5, size // 8, 26) + bytes(4 + size)
    return {
        "tile.tif": tiff(tile, (259, 4, 1, 8), *tiles),
        "ratio.tif": tiff(bytes(256), *strip, (282, 5, size // 8, bytes(size))),
        "offsets.tif": tiff(
            bytes(256), (259, 4, 1, 1), (278, 4, 1, 1), (273, 4, size // 8, bytes(size // 2))
        ),
        "before.png": png[:33] + chunk(b"abCd", bytes(size)) + png[33:],
        "behind.png": png[:-12] + chunk(b"abCd", bytes(size)) + png[-12:],
        "many.png": png[:33] + chunk(b"abCd", b"") * (size // 64) + png[33:],
        "exif.png": png[:33] + chunk(b"eXIf", exif) + png[33:],
        "text.png": png[:33] + chunk(b"zTXt", b"x\0\0" + bits) + png[33:],
        "profile.png": png[:33] + chunk(b"iCCP", b"x\0\0" + bits) + png[33:],
        "segments.jpg": jpeg[:2]
        + (b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65527)) * (size // 65535)
        + jpeg[2:],
        "filled.jpg": jpeg[:2] + b"\xff" * size + jpeg[2:],
        "scans.jpg": scans[:-2] + scans[scans.rfind(b"\xff\xda") : -2] * 5000 + scans[-2:],
        "comment.ppm": b"P6 #" + b"x" * size + b"\n16 16 255\n" + bytes(768),
    }


def write(folder, size=2**25, tail=2**32):
    """Write the files into a folder, and some that go on for ``tail`` bytes of nothing."""
    for name, content in bombs(size).items():
        (folder / name).write_bytes(content)
    for form in ("JPEG", "WEBP", "AVIF", "PNG"):
        path = folder / f"tail.{form.lower()}"
        path.write_bytes(saved(form))
        os.truncate(path, tail)


def write_large(folder):
    """Write photos that claim most of 1200 MB each."""
    large = Image.radial_gradient("L").resize((8000, 7500))
    large.convert("RGB").save(folder / "large.webp", method=0, quality=20)
    large.convert("RGBA").save(folder / "large.png", compress_level=1)
    plain = Image.new("RGB", (9900, 9000), (10, 200, 30))
    plain.save(folder / "large.jpg", progressive=True, subsampling=0)
    for path in list(folder.glob("large.*")):
        shutil.copy(path, folder / f"again-{path.name}")


def peak(folder, model):
    """Caption a folder; return the exit code and the most MB of memory."""
    command = [sys.executable, "-m", "mrnn_runtime", "caption", str(folder), "--model", str(model)]
    command = [sys.executable, "-c", RUN, *command, "--provider", "cpu"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return tuple(map(int, ran.stdout.split()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--copies", type=int, default=10, help="of the good photos")
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in sorted(args.photos.glob("*.jpg")):
            for number in range(args.copies):
                shutil.copy(path, folder / f"{number}-{path.name}")
        for name, more in (("good photos", None), ("with hostile ones", write)):
            if more:
                more(folder)
            code, most = peak(folder, args.model)
            print(
                f"{name}: {len(list(folder.iterdir()))} files, at most {most} MB, exit code {code}"
            )
        if args.large:
            write_large(folder)
            code, most = peak(folder, args.model)
            print(f"with large ones, too: at most {most} MB, exit code {code}")


if __name__ == "__main__":
    main()
