"""ONNX files in odd encodings, and what our strict reader and protobuf's make of them.

    python tests/robustness/protobuf.py --cases 100000 --seed 1

What our reader takes must mean the same to protobuf, field by field, and what the checks take must
load in ONNX Runtime or be refused by it. What it does not take makes no difference.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from mrnn_runtime.engine.onnx_format import read_model
from mrnn_runtime.engine.sessions import make_session
from mrnn_runtime.errors import BundleError

CLIP = """
<ir_version: 8, opset_import: ["": 17]>
g (float[n] x) => (float[n] y)
{
    low = Constant <value = float {-1.5}> ()
    t = Clip (x, low)
    big = Cast <to = 1> (t)
    y = Gemm <alpha = 0.5, transB = 1> (big, big)
}
"""
LOOP = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1] x) => (float[1] y)
{
    times = Constant <value = int64 {3}> ()
    y = Loop (times, , x) <body = b (int64 i, bool go, float[1] a) => (bool on, float[1] c) {
        on = Identity (go)
        c = Neg (a)
    }>
}
"""
FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[n] x) => (float[n] y) { y = own.twice (x) }
<domain: "own", opset_import: ["": 17]>
twice (a) => (b) { c = Neg (a) b = Neg (c) }
"""


def seeds(folder):
    """Return the content of small models: those of a bundle, and some that are refused."""
    texts = [onnx.parser.parse_model(text).SerializeToString() for text in (CLIP, LOOP, FUNCTION)]
    return [*texts, *(path.read_bytes() for path in sorted(folder.glob("*.onnx")))]


def varint(number, size=0):
    """Encode a number in seven bits a byte, in at least ``size`` bytes."""
    groups = [number & 127]
    while number := number >> 7:
        groups.append(number & 127)
    groups += [0] * (size - len(groups))
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def number_at(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def fields(data):
    """Take a message apart: a list of tag and value, a number or bytes; None if it is none."""
    fields, at = [], 0
    try:
        while at < len(data):
            tag, at = number_at(data, at)
            size = {1: 8, 5: 4}.get(tag & 7, 0)
            if tag & 7 == 0:
                value, at = number_at(data, at)
            else:
                if tag & 7 == 2:
                    size, at = number_at(data, at)
                value = data[at : at + size]
                if len(value) != size or tag & 7 in (3, 4, 6, 7) or not tag >> 3:
                    return None
                at += size
            fields.append((tag, value))
    except IndexError:
        return None
    return fields


def joined(parts):
    """Put a message together; a part of bytes alone stands as it is."""
    return b"".join(part if isinstance(part, bytes) else encoded(*part) for part in parts)


def encoded(tag, value, *, tag_size=0, size=0):
    head = varint(tag, tag_size)
    if tag & 7 == 0:
        return head + varint(value, size)
    return head + (varint(len(value), size) if tag & 7 == 2 else b"") + value


def mutated(data, random, others):
    """Change a message at one place, somewhere within; the lengths around it stay right."""
    parts = fields(data)
    if not parts:
        return bytes(random.choices(range(256), k=random.randrange(9)))
    place = random.randrange(len(parts))
    tag, value = parts[place]
    if isinstance(value, bytes) and tag & 7 == 2 and len(value) < 2**16 and random.random() < 0.75:
        inner = fields(value)
        if inner and (value[:1] < b" " or random.random() < 0.3):
            parts[place] = (tag, mutated(value, random, others))
            return joined(parts)
    match random.randrange(14):
        case 0:
            parts[place] = encoded(tag, value, tag_size=random.randrange(2, 11))
        case 1:
            parts[place] = encoded(tag, value, size=random.randrange(2, 12))
        case 2:
            parts[place] = (tag | 1 << random.choice((29, 31, 32, 33, 34, 35, 63)), value)
        case 3:
            parts.insert(random.randrange(len(parts) + 1), (tag, value))
        case 4:
            del parts[place]
        case 5:
            random.shuffle(parts)
        case 6:
            number = random.choice((*range(1, 30), 2**29 - 1))
            wire = random.choice((0, 1, 2, 5))
            content = {0: 1, 1: bytes(8), 2: b"\x08\x01", 5: bytes(4)}[wire]
            parts.insert(place, (number << 3 | wire, content))
        case 7:
            parts[place] = varint(tag & ~7 | 3) + joined([(tag, value)]) + varint(tag & ~7 | 4)
        case 8:
            other = random.choice(fields(random.choice(others)))
            parts[place] = other
        case 9 if isinstance(value, int):
            parts[place] = (tag, random.choice((0, 1, 2, 7, 2**31, 2**32 + 1, 2**63, 2**64 - 1)))
        case 10 if isinstance(value, int):  # a repeated number as a packed one, or the reverse
            parts[place] = (tag & ~7 | 2, varint(value))
        case 11 if isinstance(value, bytes):
            word = random.choice((b"", b"Loop", b"ai.onnx", b"com.microsoft", b"\xff", b"y", b"x"))
            parts[place] = (tag & ~7 | 2, word)
        case 12:
            whole = bytearray(joined(parts))
            for _ in range(random.choice((1, 2, 8))):
                whole[random.randrange(len(whole))] ^= 1 << random.randrange(8)
            return bytes(whole)
        case _:
            whole = joined(parts)
            at = random.randrange(len(whole) + 1)
            return whole[:at] + bytes(random.choices(range(256), k=random.randrange(3)))
    return joined(parts)


def difference(ours, theirs, data):
    """Say where our reading of a message differs from protobuf's, or nothing."""
    listed = {field.name: (field, value) for field, value in theirs.ListFields()}
    for name in listed.keys() - ours.keys():
        return f"{name} is not in ours"
    for name, mine in ours.items():
        one = mine if isinstance(mine, list) else [mine]
        field, value = listed.get(name, (None, []))
        if field is None:
            # protobuf lists no repeated field that is empty.
            if isinstance(mine, list) and all(at == stop for at, stop in mine):
                continue
            return f"{name} is only in ours"
        many = list(value) if isinstance(mine, list) else [value]
        if field.message_type:
            pairs = zip(one, many, strict=False)
            inner = next(filter(None, (difference(*pair, data) for pair in pairs)), "")
            if inner or len(one) != len(many):
                return f"{name}: {inner or 'another number of them'}"
        elif field.cpp_type == field.CPPTYPE_STRING:
            texts = [v.encode() if isinstance(v, str) else v for v in many]
            if [data[slice(*v)] if isinstance(v, tuple) else v for v in one] != texts:
                return f"{name} is another text"
        elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            size = 4 if field.cpp_type == field.CPPTYPE_FLOAT else 8
            if sum(1 if v is None else (v[1] - v[0]) / size for v in one) != len(many):
                return f"{name} has another number of numbers"
        else:
            numbers = [
                n for v in one for n in (unpacked(data, *v) if isinstance(v, tuple) else [v])
            ]
            bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM) else 64
            if [n % 2**bits for n in numbers] != [n % 2**bits for n in many]:
                return f"{name} is another number"
    return ""


def unpacked(data, at, stop):
    while at < stop:
        number, at = number_at(data, at)
        yield number


def judge(data, path):
    """Say what became of a file: refused, taken, or WRONG."""
    flattened = b"Loop" in data
    try:
        ours = read_model(data, flattened=flattened)
    except (ValueError, IndexError):
        return "refused by the reader"
    try:
        theirs = onnx.ModelProto.FromString(data)
        if said := difference(ours, theirs, data):
            return f"WRONG: {said}"
    except (DecodeError, UnicodeDecodeError) as error:
        # Not every text is UTF-8, and not every packed number is whole; nobody then loads it.
        theirs = error
    path.write_bytes(data)
    try:
        session = make_session(path, "cpu", 1, flattened=flattened)
    except BundleError as error:
        return f"refused by {'ONNX Runtime' if ' on cpu: ' in str(error) else 'the checks'}"
    if isinstance(theirs, Exception):
        return f"taken by ONNX Runtime only: {theirs}"
    names = {value.name for value in theirs.graph.output}
    return "taken" if {spec.name for spec in session.outputs} == names else "WRONG: other outputs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="work through this case alone")
    args = parser.parse_args()
    became, wrong, start = {}, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        from mutations import seed_bundle

        seed_bundle(Path(folder, "bundle"))
        models = seeds(Path(folder, "bundle"))
        path = Path(folder, "bundle", "case.onnx")
        for number in range(args.cases) if args.only is None else [args.only]:
            generator = random.Random(f"protobuf {args.seed} {number}")
            data = generator.choice(models)
            for _ in range(generator.choice((1, 1, 2, 4))):
                data = mutated(data, generator, models)
            what = judge(data, path)
            if what.startswith("WRONG"):
                wrong += 1
                print(f"case {number}: {what}")
            became[what.partition(":")[0]] = became.get(what.partition(":")[0], 0) + 1
    counts = ", ".join(f"{count} {what}" for what, count in sorted(became.items()))
    print(f"protobuf: {counts}; {time.monotonic() - start:.0f} s, seed {args.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
