"""How fast photos become captions: against torch, against the obvious loop, in int8, and cold.

    python benchmarks/end_to_end.py [--model NAME|DIR] [--run DIR] [--photos DIR] [--repeats N]
        [--only PART] [--json FILE] [--markdown FILE]

Both sides of a comparison take turns in one run, and the ratio is the median of the pairs': worth
more than the times, which are one machine's. Threads are pinned for every side. Without --photos,
photos of Flickr8k's size are made up. Without --run (the folder that ``mrnn train --output`` made)
the net that is held against torch has the paper's sizes and random weights; times do not depend on
weights, and all captions have 12 steps there. ``--only architectures`` times two well-known
architectures, with random weights; it needs transformers, and downloads nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import torch
from corpus import make_large, make_mix
from decoding import BEAMS, BOS, EOS, EagerLoop, write_bundle
from PIL import Image
from turns import in_turns

from mrnn_devtools.bench import make_photos
from mrnn_exporters import quantize
from mrnn_exporters.cells import m_rnn
from mrnn_exporters.datasets import Example
from mrnn_exporters.nets import NetConfig
from mrnn_exporters.runs import Run, TrainConfig, build_backbone
from mrnn_exporters.tokenizer import SPECIALS
from mrnn_runtime import DecodeOptions, load
from mrnn_runtime import captioner as captioners
from mrnn_runtime.engine.inputs import find_images
from mrnn_runtime.engine.parallel import in_order
from mrnn_runtime.engine.sessions import cores
from mrnn_runtime.images import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mrnn_exporters.nets import CaptionNet
    from mrnn_runtime import Captioner
    from mrnn_runtime.plugins.contracts import Backbone

STEPS = 12
FOLDER = 500
LARGE = 200
DISK_MS = 20
EVERYDAY = ("everyday",)  # started cold as well


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        what: was measured.
        ours: median of the runtime's times.
        theirs: median of what it is compared with.
        unit: of both.
        against: what that is.
        ratio: the median of theirs / ours over the pairs.
        target: the ratio that is aimed at, at least; None where there is none.
    """

    what: str
    ours: float
    theirs: float
    unit: str
    against: str
    ratio: float
    target: float | None


def turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, photos: int
) -> dict[str, list[float]]:
    """Let all take turns; return their times in ms a photo."""
    times = in_turns(repeats, *calls.values())
    return {
        name: [seconds * 1000 / photos for seconds in mine]
        for name, mine in zip(calls, times, strict=True)
    }


def row(
    what: str,
    against: str,
    target: float | None,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str = "ms/photo",
) -> Row:
    """Return the row of two lists of times."""
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    measured = Row(
        what, statistics.median(ours), statistics.median(theirs), unit, against, ratio, target
    )
    print(line(measured), flush=True)
    return measured


def line(one: Row) -> str:
    """Return a row of the Markdown table."""
    ours, theirs = (f"{t:.{2 if t < 100 else 0}f} {one.unit}" for t in (one.ours, one.theirs))
    target = "" if one.target is None else f"{one.target:.2g}"
    return f"| {one.what} | {ours} | {one.against} | {theirs} | **{one.ratio:.2f}** | {target} |"


class Eager:
    """The same net in torch as people write it: one photo after the other."""

    def __init__(self, backbone: Backbone, net: CaptionNet) -> None:
        """Take over a CNN and a net."""
        self.backbone, self.loop = backbone, EagerLoop(net)

    def features(self, path: Path) -> torch.Tensor:
        """Read a photo and return its feature, [1, d]."""
        size = self.backbone.preprocess
        with Image.open(path) as image:
            small = image.convert("RGB").resize(
                (size.width, size.height), Image.Resampling.BILINEAR
            )
        return self.backbone.module(torch.from_numpy(np.array(small))[None])

    def greedy(self, path: Path) -> list[int]:
        """Return the likeliest word STEPS times."""
        state = self.loop.start(self.features(path))
        words, token = [], torch.tensor([BOS])
        for _ in range(STEPS):
            values, ids, *state = self.loop.step(token, state, 1 + len(SPECIALS))
            values = values.masked_fill(ids < len(SPECIALS), -torch.inf)
            token = ids.gather(1, values.argmax(1, keepdim=True))[:, 0]
            words.append(int(token))
        return words

    def beam(self, path: Path) -> list[int]:
        """Return the best of BEAMS hypotheses of STEPS words."""
        return self.loop.beam(self.features(path), STEPS)[0].tolist()


def export(backbone: Backbone, net: CaptionNet, folder: Path) -> Captioner:
    """Write the bundle of a net as ``mrnn export`` does, and load it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    width = net.config.vocabulary_size
    words = [*SPECIALS, *(f"w{i}" for i in range(width - len(SPECIALS)))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "MODEL_CARD.md").touch()
    write_bundle(backbone.module, net, folder, backbone.preprocess)
    return load(folder, provider="cpu", threads=1)


def against_torch(run: Path | None, photos: list[Path], repeats: int) -> list[Row]:
    """Photos in, captions out, one thread each."""
    config = Run.open(run).config if run else TrainConfig(datasets=())
    backbone: Any = build_backbone(config)
    if run:
        net: Any = Run.open(run).cell()
    else:
        torch.manual_seed(0)
        net = m_rnn(NetConfig(vocabulary_size=2500, feature_size=backbone.feature_size)).eval()
    if net.image != {"multimodal"} or net.tied or net.word_input != 2:
        raise SystemExit("the torch loop knows the cells m-rnn, gru and lstm only")
    with TemporaryDirectory() as folder:
        captioner = export(backbone, net, Path(folder, "fp32"))
        int8 = smaller(captioner, photos, Path(folder, "int8"))
    eager = Eager(backbone, net)
    endless = DecodeOptions(beam_size=BEAMS, max_length=STEPS - 1, banned=(EOS,))
    alone: dict[str, Any] = {"readers": 0, "options": endless}  # one thread, as torch has
    with torch.inference_mode():
        theirs = [captioner.vocabulary.decode(eager.greedy(path)[:-1]) for path in photos]
    mine = [one.text for one in captioner.caption(photos, decoder="greedy", **alone)]
    # Not all: the exported weights are rounded, and a near tie may fall to either side.
    same = statistics.mean(a == b for a, b in zip(mine, theirs, strict=True))
    assert same >= 0.9, f"only {same:.0%} of the captions are the same"
    calls: dict[str, Callable[[], object]] = {
        "greedy": lambda: list(captioner.caption(photos, decoder="greedy", **alone)),
        "int8": lambda: list(int8.caption(photos, decoder="greedy", **alone)),
        "torch greedy": lambda: [eager.greedy(path) for path in photos],
        "beam": lambda: list(captioner.caption(photos, decoder="beam", **alone)),
        "torch beam": lambda: [eager.beam(path) for path in photos],
    }
    with torch.inference_mode():
        times = turns(calls, repeats, len(photos))
    eagerly = "torch eager, the same net"
    steps = f"{STEPS} steps"
    return [
        row(f"one thread, greedy, {steps}", eagerly, 2.2, times["greedy"], times["torch greedy"]),
        row(f"one thread, beam {BEAMS}, {steps}", eagerly, 2.2, times["beam"], times["torch beam"]),
        row(
            f"int8, one thread, greedy, {steps}",
            eagerly,
            None,
            times["int8"],
            times["torch greedy"],
        ),
    ]


class Obvious:
    """What one writes first: both graphs with default options, one photo after the other."""

    def __init__(self, captioner: Captioner) -> None:
        """Start the graphs of a captioner's bundle again."""
        bundle = self.bundle = captioner.bundle
        self.encoder, self.cell = (
            onnxruntime.InferenceSession(bundle.file(graph.file))
            for graph in (bundle.encoder, bundle.cell)
        )
        self.vocabulary = captioner.vocabulary
        self.state = {
            spec.input: np.zeros((1, *tensor.shape[1:]), tensor.dtype)
            for spec in bundle.state
            for tensor in bundle.cell.inputs
            if tensor.name == spec.input
        }

    def caption(self, path: Path) -> str:
        """Caption a photo, greedily."""
        bundle, tokens = self.bundle, self.bundle.tokens
        pixels = read_image(path, bundle.preprocess)[None]
        names = list(bundle.image_inputs)
        inputs = dict(zip(names, self.encoder.run(names, {"image": pixels}), strict=True))
        feeds: dict[str, Any] = {**inputs, **self.state, "k": np.array([1])}
        token, words = tokens.bos, []
        outputs = ["log_probs", *(spec.output for spec in bundle.state)]
        for _ in range(bundle.decode_options.max_length):
            scores, *states = self.cell.run(outputs, feeds | {"token": np.array([token])})
            scores[:, list(tokens.never)] = -np.inf
            token = int(scores[0].argmax())
            if token == tokens.eos:
                break
            words.append(token)
            for spec, state in zip(bundle.state, states, strict=True):
                feeds[spec.input] = state
        return self.vocabulary.decode(words)


def folder(captioner: Captioner, photos: list[Path], repeats: int) -> list[Row]:
    """A folder of photos, on all cores."""
    obvious, workers, count = Obvious(captioner), cores(), len(photos)
    preprocess = captioner.bundle.preprocess
    pixels = [read_image(path, preprocess) for path in dict.fromkeys(photos)]
    batch = np.stack(pixels[:4])

    def ours(decoder: str, beam_size: int | None = None) -> list[str]:
        done = captioner.caption(
            photos, workers=workers, batch_size=4, decoder=decoder, beam_size=beam_size
        )
        return [one.text for one in done]

    def encoder_alone() -> None:
        for _ in in_order(captioner.encoder.encode, [batch] * (count // len(batch)), workers):
            pass

    assert ours("greedy")[:50] == [obvious.caption(path) for path in photos[:50]]
    calls: dict[str, Callable[[], object]] = {
        "greedy": lambda: ours("greedy"),
        "loop": lambda: [obvious.caption(path) for path in photos],
        "encoder": encoder_alone,
        "beam": lambda: ours("beam", 5),
    }
    times = turns(calls, repeats, count)
    what = f"folder of {count}, {workers} cores"
    loop, alone = "a sequential loop, default options", "the encoder alone, from memory"
    return [
        row(f"{what}, greedy", loop, 2, times["greedy"], times["loop"]),
        row(f"{what}, greedy", alone, 0.9, times["greedy"], times["encoder"]),
        row(f"{what}, beam 5", alone, 0.75, times["beam"], times["encoder"]),
    ]


def sizes(captioner: Captioner, small: list[Path], count: int, repeats: int) -> list[Row]:
    """Folders of large photos and of all sizes, on all cores; and a disk that is slow."""
    workers, bundle = cores(), captioner.bundle
    batch = np.stack([read_image(path, bundle.preprocess) for path in small[:4]])
    whole, reduced = (
        replace(captioner, bundle=replace(bundle, preprocess=recipe))
        for recipe in (replace(bundle.preprocess, reduced=on) for on in (False, True))
    )

    def greedy(one: Captioner, photos: list[Path], readers: int | None = None) -> None:
        for caption in one.caption(photos, workers=workers, readers=readers, decoder="greedy"):
            assert caption.text, caption.error

    def encoder_alone() -> None:
        for _ in in_order(captioner.encoder.encode, [batch] * (count // len(batch)), workers):
            pass

    def slow(readers: int | None) -> None:
        with slow_disk():
            greedy(reduced, small, readers)

    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        large, mixed = make_large(Path(first), count), make_mix(Path(second), count)
        calls: dict[str, Callable[[], object]] = {
            "large": lambda: greedy(reduced, large),
            "large whole": lambda: greedy(whole, large),
            "large own": lambda: greedy(reduced, large, 0),
            "mixed": lambda: greedy(reduced, mixed),
            "small": lambda: greedy(reduced, small),
            "encoder": encoder_alone,
            "slow": lambda: slow(None),
            "slow own": lambda: slow(0),
        }
        times = turns(calls, repeats, count)
    alone, own = "the encoder alone, from memory", "the same, each worker reads its own"
    photos, folder = f"{count} JPEGs of 12 megapixels", f"{workers} cores, greedy"
    return [
        row(f"{photos}, {folder}", alone, 0.85, times["large"], times["encoder"]),
        row(f"{photos}, {folder}", "decoded whole", None, times["large"], times["large whole"]),
        row(f"{photos}, {folder}", own, None, times["large"], times["large own"]),
        row(f"{count} photos of mixed sizes", alone, None, times["mixed"], times["encoder"]),
        row(f"{count} photos of 500 pixels", alone, 0.9, times["small"], times["encoder"]),
        row(f"the same, {DISK_MS} ms a file", own, None, times["slow"], times["slow own"]),
    ]


@contextmanager
def slow_disk() -> Iterator[None]:
    """Let every file take DISK_MS more to be read, as over a network."""
    read = captioners.read_images

    def slowly(images: Sequence[Any], *given: Any) -> Any:  # noqa: ANN401 - as read_images
        time.sleep(len(images) * DISK_MS / 1000)
        return read(images, *given)

    captioners.read_images = slowly
    try:
        yield
    finally:
        captioners.read_images = read


def smaller(captioner: Captioner, photos: list[Path], folder: Path) -> Captioner:
    """Make an int8 bundle and load it; what made-up photos do to its captions does not matter."""
    examples = [Example(path, ()) for path in photos]
    bundle, _, _ = quantize.run(captioner.bundle.folder, folder, examples, agreement=0)
    return load(bundle.folder, provider="cpu", threads=1)


def integers(captioner: Captioner, photos: list[Path], repeats: int) -> list[Row]:
    """The same photos in int8 and in fp32, one thread each."""
    with TemporaryDirectory() as place:
        int8 = smaller(captioner, photos, Path(place, "int8"))
    rows = []
    for name, given in {
        "greedy": {"decoder": "greedy"},
        "beam 5": {"decoder": "beam", "beam_size": 5},
    }.items():
        calls: dict[str, Callable[[], object]] = {
            "int8": lambda given=given: list(int8.caption(photos, readers=0, **given)),
            "fp32": lambda given=given: list(captioner.caption(photos, readers=0, **given)),
        }
        times = turns(calls, repeats, len(photos))
        rows.append(row(f"int8, one thread, {name}", "fp32", 1.4, times["int8"], times["fp32"]))
    return rows


def cold(models: Sequence[str], photo: Path, repeats: int) -> list[Row]:
    """Whole processes, from the start to the end; the first, which does not count, fills caches."""
    mrnn = Path(sys.executable).with_name("mrnn")
    app = "import typer; a = typer.Typer({}); a.command()(lambda: None); a()"
    # With the threads that users have, and with compiled modules, as pip leaves them.
    left_out = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}

    def process(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, env=environment)

    rows = []
    for what, ours, against, theirs, target in (
        *(
            (
                f"a cold process, one photo, {model}",
                (mrnn, "caption", photo, "--model", model),
                "import onnxruntime, PIL.Image",
                (sys.executable, "-c", "import onnxruntime, PIL.Image"),
                1 / 2,
            )
            for model in models
        ),
        (
            "mrnn --help",
            (mrnn, "--help"),
            "an empty Typer application's",
            (sys.executable, "-c", app.format(""), "--help"),
            1 / 1.5,
        ),
        (
            "mrnn --help",
            (mrnn, "--help"),
            "the same, without Rich",
            (sys.executable, "-c", app.format("rich_markup_mode=None"), "--help"),
            None,
        ),
    ):
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda ours=ours: process(*ours),
            "theirs": lambda theirs=theirs: process(*theirs),
        }
        times = turns(calls, repeats, 1)
        rows.append(row(what, against, target, times["ours"], times["theirs"], "ms"))
    return rows


def architectures(captioner: Captioner, photos: list[Path], repeats: int) -> list[Row]:
    """Other architectures with random weights, one photo, one thread; no like with like."""
    import transformers

    torch.manual_seed(0)
    gpt = transformers.GPT2Config(add_cross_attention=True, is_decoder=True)
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(), gpt
    )
    both.decoder_start_token_id = both.pad_token_id = gpt.bos_token_id
    nets = {
        "ViT-base and GPT-2 small, random, torch": transformers.VisionEncoderDecoderModel(both),
        "BLIP-base, random, torch": transformers.BlipForConditionalGeneration(
            transformers.BlipConfig()
        ),
    }
    rows = []
    for name, net in nets.items():
        vision = getattr(net.config, "encoder", None) or net.config.vision_config
        pixels = torch.rand(1, 3, vision.image_size, vision.image_size)

        generate = partial(
            net.eval().generate,
            pixel_values=pixels,
            min_new_tokens=STEPS,
            max_new_tokens=STEPS,
        )
        greedy = partial(captioner.caption, photos[0], decoder="greedy")
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda greedy=greedy: list(greedy()),
            "theirs": generate,
        }
        times = turns(calls, repeats, 1)
        what = "one photo, one thread, greedy; another architecture"
        rows.append(row(what, name, None, times["ours"], times["theirs"]))
    return rows


HEADER = """\
| what | runtime | compared with | takes | times faster | aimed at |
|---|---|---|---|---|---|"""
NOTE = """\
# Benchmarks

`make bench` measures all of it again and writes the JSON files here and this page; the machine
ought to be idle. The figures below are of photos of Flickr8k (`--photos`) and the model `flickr8k`,
one part after the other (`--only`, which keeps the other parts of `--json`); the net that is held
against torch has the paper's sizes. Both sides of a row take turns in one run; a ratio is the
median of the pairs. Where the runtime does more than what it is compared with, the aim is below 1:
at least 0.9 of the encoder's rate, say, or at most twice the time of bare imports. Photos of 12
megapixels and of mixed sizes are made of those of the demo, by `corpus.py`: half of the mix are
JPEGs of 12 megapixels, the rest JPEGs, a WebP and a PNG of .2 to 2 megapixels.

{table}

{machine}. Other tables: `decoding.json` (the cell and the beam search against torch),
`consensus.json` (reranking), `retrieval.json` (photos for a sentence), `readers.json` (what reads
a large JPEG), `reduced.json` (what decoding it at a part of its size does to captions),
`scaling.json` (how time and memory grow with the work), `end_to_end_everyday.json` (the part
`sizes` with the model `everyday`: `--model everyday --large 40`). Where transformers is installed,
`--only architectures --json benchmarks/architectures.json` times two well-known architectures with
random weights: that says what an architecture costs, and nothing of who runs it better.

What int8 gains hangs on the CPU: 1.5 times on an AMD EPYC without VNNI, 2.2 times on a CPU that has
it, with the code of that time.

The aim of 0.85 for folders of 12 megapixels is out of reach on a CPU: the Huffman code of a photo
of 3 MB is nine tenths of what reading it takes (the row "an eighth" of `readers.json`), more than
the encoder takes, and no part of that code can be skipped. simplejpeg, libvips and OpenCV, which
decode with libjpeg-turbo as Pillow does, are no faster; PyTurboJPEG needs libjpeg-turbo 3 from the
system, which Debian 12 does not have. So none is worth a dependency.
"""


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="flickr8k", help="an installed model, or a bundle")
    parser.add_argument("--run", type=Path, help="a finished run of mrnn train")
    parser.add_argument("--photos", type=Path, help="a folder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", type=int, default=LARGE, help="photos of the part sizes")
    names = ("torch", "folder", "sizes", "int8", "cold", "architectures")
    parser.add_argument("--only", choices=names, help="one part; all but the last by default")
    parser.add_argument("--json", type=Path, help="write the numbers there; other parts are kept")
    parser.add_argument("--markdown", type=Path, help="write all that --json has as a page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        photos = find_images([given.photos]) if given.photos else make_photos(Path(place), 64)
        many = (photos * -(-FOLDER // len(photos)))[:FOLDER]
        captioner = load(given.model, provider="cpu", threads=1)
        parts: dict[str, Callable[[], list[Row]]] = {
            "torch": lambda: against_torch(given.run, photos[:16], given.repeats),
            "folder": lambda: folder(captioner, many, given.repeats),
            "sizes": lambda: sizes(captioner, many[: given.large], given.large, given.repeats),
            "int8": lambda: integers(captioner, photos[:16], given.repeats),
            "cold": lambda: cold([given.model, *EVERYDAY], photos[0], given.repeats),
        }
        wanted = [given.only] if given.only else list(parts)
        parts["architectures"] = lambda: architectures(captioner, photos, given.repeats)
        print(HEADER)
        measured = {name: [asdict(one) for one in parts[name]()] for name in wanted}
    machine = f"{platform.system()} {platform.machine()}, {cores()} cores"
    versions = {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }
    before: dict[str, Any] = {}
    if given.json and given.json.exists():
        before = json.loads(given.json.read_text("utf-8"))["parts"]
    every: dict[str, Any] = before | {
        name: {"repeats": given.repeats, "model": given.model, "rows": rows}
        for name, rows in measured.items()
    }
    if given.json:
        record = {"machine": machine, "versions": versions, "parts": every}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if given.markdown:
        rows = [Row(**one) for name in parts if name in every for one in every[name]["rows"]]
        table = "\n".join([HEADER, *map(line, rows)])
        facts = ", ".join([machine, *(f"{name} {version}" for name, version in versions.items())])
        given.markdown.write_text(NOTE.format(table=table, machine=facts), encoding="utf-8")


if __name__ == "__main__":
    main()
