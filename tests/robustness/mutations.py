"""Hostile files for fuzz.py: photos and bundles, damaged at random or on purpose.

Everything follows from the random generator that is passed in, so that a case can be made again.
"""

import contextlib
import hashlib
import json
import os
import runpy
import shutil
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import lies
import numpy as np
import onnx
import protobuf
import tokenizer_variants
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mrnn_runtime.build import build_references
from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.reranking.references import save_references
from mrnn_runtime.retrieval.ranking import save_background
from mrnn_runtime.testing import tiny_bundle
from mrnn_runtime.types import EncodedImages

EXTREME = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
SIDES = (0, 1, 3, 11_313, 11_314, 65_535, 2**24, 2**31 - 1, 2**32 - 1)
# Seen by the file system when it is opened: nothing of a bundle may lead there.
CANARY = "canary.data"
PHOTO = b"P6 4 4 255\n" + bytes(range(48))


def seed_images():
    """Return small photos in every format that is read, and in the modes that are special there."""
    random = np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(random.integers(0, 256, (40, 30), np.uint8)))
    deep = Image.fromarray(random.integers(0, 2**16, (40, 30), np.uint16))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    turned = Image.Exif()
    turned[0x0112] = 6
    more = [rgb.rotate(angle) for angle in (20, 40)]
    saved = [
        (rgb, "JPEG", {"quality": 80}),
        (rgb, "JPEG", {"progressive": True, "exif": turned, "comment": b"x" * 50}),
        (rgb.convert("L"), "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}),
        (rgba, "PNG", {"exif": turned}),
        (palette, "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (rgb, "PNG", {"save_all": True, "append_images": more}),
        (rgb, "WEBP", {}),
        (rgba, "WEBP", {"lossless": True, "exif": turned}),
        (rgb, "WEBP", {"save_all": True, "append_images": more}),
        (palette, "GIF", {"save_all": True, "append_images": more}),
        (rgb, "BMP", {}),
        (palette, "BMP", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgba, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (deep, "TIFF", {}),
        (rgb, "PPM", {}),
        (rgba, "AVIF", {"exif": turned}),
        (rgb, "AVIF", {"save_all": True, "append_images": more}),
        (rgb, "MPO", {"save_all": True, "append_images": more}),
        (rgb, "TIFF", {"big_tiff": True}),
        (rgb, "PNG", {"icc_profile": bytes(200), "pnginfo": _texts()}),
        (rgb, "JPEG", {"icc_profile": bytes(200), "exif": turned, "restart_marker_rows": 1}),
    ]
    seeds = [b"P3 4 4 255\n" + b" 7" * 48]
    with suppress(ImportError):  # the extra heif
        import pillow_heif

        file = BytesIO()
        pillow_heif.from_pillow(rgba).save(file, exif=turned.tobytes())
        seeds.append(file.getvalue())
    for image, form, options in saved:
        file = BytesIO()
        image.save(file, form, **options)
        seeds.append(file.getvalue())
    return seeds


def _texts():
    texts = PngInfo()
    for compressed in (False, True):
        texts.add_text("comment", "x" * 50, zip=compressed)
        texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=compressed)
    return texts


def mutated_image(random, seeds):
    """Return the bytes of one hostile photo, and what was done."""
    if random.random() < 0.1:
        return _lying_header(random), "lying header"
    data, done = random.choice(seeds), []
    for _ in range(random.randint(1, 3)):
        how = random.choice(("flip", "cut", "drop", "repeat", "fill", "extreme", "splice"))
        data = _mutate(data, how, random, seeds)
        done.append(how)
    if data.startswith(b"\x89PNG") and random.random() < 0.7:
        data = _with_checksums(data)
    return data, "+".join(done)


def _mutate(data, how, random, others=(b"",)):
    at = random.randrange(len(data) + 1)
    size = random.choice((1, 2, 4, 16, 200))
    # What stands at the front says how the rest is read.
    front = random.randrange(min(len(data), 400) + 1)
    match how:
        case "flip":
            changed = bytearray(data)
            for _ in range(random.choice((1, 3, 20)) if data else 0):
                changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
            return bytes(changed)
        case "cut":
            return data[:at]
        case "drop":
            return data[:at] + data[at + size :]
        case "repeat":
            return data[:at] + data[at : at + size] * random.choice((2, 50)) + data[at:]
        case "fill":
            return data[:at] + random.choice((b"\0", b"\xff")) * size + data[at + size :]
        case "extreme":
            width, code = random.choice(((1, "B"), (2, "H"), (4, "I")))
            order = random.choice("<>")
            number = random.choice(EXTREME) % 256**width
            return data[:front] + struct.pack(order + code, number) + data[front + width :]
        case "splice":
            other = random.choice(others)
            return data[:at] + other[random.randrange(len(other) + 1) :]


def _with_checksums(data):
    """Make the CRC of every PNG chunk right, so that what is inside is looked at."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def _lying_header(random):
    """Return a photo whose header claims a size that nobody has memory for, or just has."""
    width, height = random.choice(SIDES), random.choice(SIDES)
    match random.choice(("png", "huge png", "bmp", "ppm", "gif", "webp")):
        case "png":
            return _png(width, height, random.choice((0, 2, 3, 4, 6)), random.choice((1, 8, 16)))
        case "huge png":  # 128 million pixels, the most that are read, in a few kB
            rows = zlib.compress(bytes((11_313 // 8 + 2) * 11_313))
            return _png(11_313, 11_313, 3, 1, b"\0\xff\0" * 2, b"\x7f", rows)
        case "bmp":
            header = struct.pack("<IiiHHIIiiII", 40, width >> 1, height >> 1, 1, 24, *[0] * 6)
            return b"BM" + struct.pack("<IHHI", 2**31, 0, 0, 54) + header
        case "ppm":
            return f"P{random.choice('3456')} {width} {height} {random.choice(EXTREME)}\n".encode()
        case "gif":
            size = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
            return b"GIF89a" + size + b"\xf7\0\0" + bytes(768) + b"," + bytes(4) + size + b"\0\x08"
        case "webp":
            size = (width & 0xFFFFFF).to_bytes(3, "little") + (height & 0xFFFFFF).to_bytes(3)
            chunk = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
            return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


def _png(width, height, colour, bits, palette=b"", clear=b"", rows=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", clear), (b"IDAT", rows)]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in [*((n, b) for n, b in chunks if b), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return data


def seed_bundle(folder):
    """Write the tiny bundle, with everything in it that a bundle may have."""
    tiny_bundle(folder)
    manifest = read_manifest(folder) | {"readout": _readout(folder)}
    write_manifest(folder, manifest)
    bundle = load_bundle(folder)
    random = np.random.default_rng(1)
    features = random.standard_normal((12, 8)).astype(np.float32)
    captions = [[random.integers(4, 12, 5).tolist() for _ in range(2)] for _ in range(12)]
    names = [f"{i}.jpg" for i in range(12)]
    references = build_references(names, features, captions, bundle.vocabulary_size)
    save_references(references, folder / "references", bundle, source="made up")
    terms = {"image_term": random.standard_normal((3, 6)).astype(np.float32)}
    save_background(EncodedImages(terms, features[:3]), folder)
    write_manifest(folder, read_manifest(folder))


def _readout(folder):
    """Write the upper half of the tiny cell, whose weights are the cell's; return what it is."""
    suite = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    readout = onnx.parser.parse_model(suite["READOUT"])
    cell = onnx.load(folder / "cell.onnx", load_external_data=False)
    shared = [w for w in cell.graph.initializer if w.name not in ("word_table", "u_state")]
    axis = onnx.numpy_helper.from_array(np.array([1]), "second_axis")
    readout.graph.initializer.extend([*shared, axis])
    (folder / "readout.onnx").write_bytes(readout.SerializeToString())
    return suite["make_readout"]()


# Values that no field expects, or that fit but are far too much.
VALUES = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), "", "x", "zeros"),
    *("../canary.data", "/etc/passwd", "..\\canary.data", "C:\\x", "\0", "\ud800", "x" * 10**6),
    *([], {}, [[]], [1, 2, 3], ["r", 10**12], {"x": 1}, "AWAY"),
)
GRAPHS = ("cell.onnx", "encoder.onnx", "readout.onnx")


def mutate_bundle(folder, random):
    """Damage a bundle; return what was done, and whether its checksums fit the damage."""
    is_whole = random.random() < 0.75
    how = random.choice(
        (
            *("bytes", "bytes", "bytes", "graph", "json", "json", "place", "numbers"),
            *("protobuf", "protobuf", "lie", "tokenizer", "tokenizer"),
        )
    )
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    file = random.choice(files)
    match how:
        case "graph":  # most of a graph's file are weights; its structure stands at the front
            file, how = random.choice(GRAPHS), "bytes"
            done = _damage(folder / file, random)
        case "bytes":
            done = _damage(folder / file, random)
        case "json":
            file = random.choice(("bundle.json", "references/references.json", "tokenizer.json"))
            done = _change_field(folder / file, random)
        case "place":
            done = _misplace(folder, file, random)
        case "protobuf":
            file = random.choice(GRAPHS)
            models = protobuf.seeds(folder)
            data = protobuf.mutated((folder / file).read_bytes(), random, models)
            (folder / file).write_bytes(data)
            done = how
        case "lie":
            file, output, done = random.choice(list(lies.outputs(folder)))
            lies.tell(folder, file, output, done)
        case "tokenizer":
            file = "tokenizer.json"
            done = tokenizer_variants.change(folder / file, random)
        case "numbers":
            file, done = _lie_about_numbers(folder, random)
    if is_whole:
        keep = how == "json" and file.endswith(("bundle.json", "references.json"))
        _seal(folder / "references", "references.json", facts=not keep)
        _seal(folder, "bundle.json", facts=not keep or file != "bundle.json")
    return f"{how}: {file} {done}", is_whole


def _damage(path, random):
    how = random.choice(("flip", "cut", "drop", "repeat", "fill", "extreme", "extreme"))
    path.write_bytes(_mutate(path.read_bytes(), how, random))
    return how


def _change_field(path, random):
    top = json.loads(path.read_bytes())
    nodes = [node for node in _nodes(top) if node]
    node = random.choice(nodes)
    key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
    value = random.choice(VALUES)
    was = node[key]
    if value == "AWAY":
        del node[key]
    else:
        node[key] = value
    text = json.dumps(top)
    if random.random() < 0.05:
        text = text.replace('"name"', '"deep": ' + "[" * 5000 + "]" * 5000 + ', "name"', 1)
    path.write_text(text)
    return f"{key}: {was!r:.30} -> {value!r:.30}"


def _nodes(value):
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _nodes(inner)


def _misplace(folder, file, random):
    """Let a file be what it must not be, or name one that lies outside."""
    canary, path = folder.parent / "outside" / CANARY, folder / file
    how = random.choice(("link", "folder", "pipe", "surplus", "linked folder", "weights"))
    match how:
        case "link":
            path.unlink()
            path.symlink_to(random.choice((canary, "/etc/passwd", "../outside/canary.data", file)))
        case "folder":
            path.unlink()
            path.mkdir()
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "surplus":
            (folder / "more").write_bytes(b"x")
        case "linked folder":
            (folder / "linked").symlink_to(canary.parent)
        case "weights":  # of the cell; a path of another length would need a change elsewhere
            graph = folder / "cell.onnx"
            path = random.choice((b"../canary.data", b"/../canary.dat", b"./canary.data\0"))
            (folder.parent / CANARY).write_bytes((folder / "cell.onnx.data").read_bytes())
            if random.random() < 0.5:
                (folder / CANARY).symlink_to(canary)
                path = b"./canary.data/"
            graph.write_bytes(graph.read_bytes().replace(b"cell.onnx.data", path))
    return how


def _lie_about_numbers(folder, random):
    """Change numbers where they rule: of an array's header or contents, of a place of weights."""
    arrays = sorted(folder.glob("references/*.npy"))
    match random.choice(("header", "contents", "archive", "weights")):
        case "header":
            path = random.choice(arrays)
            data = path.read_bytes()
            lie = random.choice((b"(10000000000,)", b"(-1,)", b"()", b"(3, 99999999)", b"x"))
            kind = random.choice((b"'|O'", b"'<f8'", b"'<M8[s]'", b"'<u8'", data[20:25]))
            text = b"{'descr': %b, 'fortran_order': False, 'shape': %b, }" % (kind, lie)
            path.write_bytes(data[:10] + text.ljust(117) + b"\n" + data[128:])
        case "contents":
            path = random.choice(arrays)
            array = np.load(path)
            extremes = [0, -1, 2**40] if array.dtype.kind in "iu" else [np.nan, np.inf, 1e4]
            lie = np.array(extremes).astype(array.dtype)
            for _ in range(3):
                array.flat[random.randrange(array.size)] = random.choice(lie)
            np.save(path, array)
        case "archive":
            path = folder / random.choice(("golden.npz", "background.npz"))
            golden = dict(np.load(path))
            name = random.choice(list(golden))
            shape = random.choice(((0,), (), (3, 16, 16, 3), (100_000_000,)))
            golden[name] = np.zeros(shape, np.uint8)
            np.savez_compressed(path, **golden)
        case "weights":
            path = folder / random.choice(("cell.onnx", "readout.onnx"))
            data = path.read_bytes()
            for word in random.choice(((b"offset",), (b"length",), (b"offset", b"length"))):
                at = data.find(word, random.randrange(len(data)))
                digits = random.choice((b"9", b"-", b"0"))
                if at > 0:
                    data = data[: at + 8] + digits + data[at + 9 :]
            path.write_bytes(data)
    return path.name, "numbers"


def _seal(folder, name, *, facts):
    """Make the checksums fit, as somebody who means harm would."""
    path = folder / name
    # What has no place for checksums any more stays as it is.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        top = json.loads(path.read_bytes()) if path.is_file() else None
        if facts:
            for file in list(top["files"]):
                place = folder / file
                if place.is_file():
                    data = place.read_bytes()
                    digest = hashlib.sha256(data).hexdigest()
                    top["files"][file] = {"sha256": digest, "bytes": len(data)}
        top.pop("manifest_sha256", None)
        text = json.dumps(top, sort_keys=True, separators=(",", ":"), allow_nan=False)
        top["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(top))


def copy_bundle(seed: Path, folder: Path) -> None:
    """Put a whole bundle in place of what is there, and the canary beside it."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    (folder.parent / "outside").mkdir(parents=True)
    shutil.copytree(seed, folder)
    weights = (folder / "cell.onnx.data").read_bytes()
    (folder.parent / "outside" / CANARY).write_bytes(weights)
