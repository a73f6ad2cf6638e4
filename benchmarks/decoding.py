"""How fast the ONNX cell is, and the search around it, against a torch-eager loop of the same net.

    python benchmarks/decoding.py [--run DIR] [--repeats N] [--json FILE]

Without a run (the folder that ``mrnn train --output`` made) the net has the paper's sizes, random
weights, and sentences that end after 6 to 19 words. Both sides have one thread and take turns in
one process, so their ratio is worth more than their times. The torch side is what people write by
hand: the layers as they were trained, all beams as rows, a fixed number of steps.

Letters in shapes: n images, r rows, k beams, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from turns import in_turns

from mrnn_exporters import graphs
from mrnn_exporters.cells import gru, m_rnn
from mrnn_exporters.nets import CaptionNet, NetConfig, g2, unit_rms
from mrnn_exporters.runs import Run
from mrnn_exporters.tokenizer import SPECIALS
from mrnn_runtime import DecodeOptions, EncodedImages, Scores, load_bundle
from mrnn_runtime.bundle.loading import write_manifest
from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.engine.model import OnnxStepModel
from mrnn_runtime.types import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import SpecialTokens, StepModel

PHOTOS = 16
BEAMS = 10
STEPS = 12
LONGEST = 20
# How many words the sentences of a random net have, image by image: 10.4 on average.
WORDS = (9, 6, 12, 8, 10, 7, 17, 9, 11, 8, 13, 10, 7, 11, 19, 9)
CELLS = {"m-rnn": m_rnn, "gru": gru}
BOS, EOS = SPECIALS.index("<bos>"), SPECIALS.index("<eos>")
# What a search asks of a step: its beams, one end sign, and what it may have to leave out.
TOP = BEAMS + 1 + len(SPECIALS)


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        what: was measured.
        ours: median of the runtime's times, in ms.
        theirs: median of what it is compared with, in ms.
        against: what that is.
        target: the ratio that is aimed at.
    """

    what: str
    ours: float
    theirs: float
    against: str
    target: float

    @property
    def ratio(self) -> float:
        """How many times faster the runtime is."""
        return self.theirs / self.ours


class EagerLoop:
    """A net as people write it: every layer at every step, and a beam search around it.

    Only for nets that see the image in the multimodal layer: m-rnn, gru, lstm.
    """

    def __init__(self, net: CaptionNet) -> None:
        """Take over a net."""
        self.net = net

    def start(self, features: Tensor) -> list[Tensor]:
        """Return V_I I and the zero state, [n, ...]; the image is projected only once."""
        image = self.net.from_image(unit_rms(features))
        return [image, *(torch.zeros(len(features), tensor.size) for tensor in self.net.state)]

    def step(self, tokens: Tensor, state: Sequence[Tensor], top: int) -> tuple[Tensor, ...]:
        """Feed int64 [r]; return the best log-probabilities and ids, [r, top], and the state."""
        net = self.net
        word = net.word(net.embedding(tokens))
        after = net.recurrence.advance(net.recurrence.gates(word), tuple(state[1:]))
        multimodal = g2(net.from_word(word) + net.from_recurrent(after[0]) + state[0])
        best = functional.log_softmax(net.output(multimodal), dim=1).topk(top, dim=1)
        return (*best, state[0], *after)

    def beam(self, features: Tensor, steps: int) -> Tensor:
        """Return the best sentences without an end, int64 [n, steps]."""
        count = len(features)
        state = self.start(features)
        words = torch.empty(count, 0, dtype=torch.int64)
        scores = torch.zeros(count, 1)
        for step in range(steps):
            last = words[:, -1] if step else torch.full((count,), BOS)
            values, ids, *state = self.step(last, state, TOP)
            values = values.masked_fill(ids < len(SPECIALS), -torch.inf)
            sums = (scores.reshape(-1, 1) + values).reshape(count, -1)
            scores, place = sums.topk(BEAMS, dim=1)
            live = len(words) // count
            parent = (place // TOP + torch.arange(count)[:, None] * live).reshape(-1)
            token = ids.reshape(count, -1).gather(1, place).reshape(-1, 1)
            words = torch.cat([words[parent], token], dim=1)
            state = [tensor[parent] for tensor in state]
        return words.reshape(count, BEAMS, -1)[:, 0]


class Placeholder(nn.Module):
    """Stands where the CNN stands: makes features of the right size of any picture."""

    def __init__(self, size: int) -> None:
        """Make features of that size."""
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [n, 8, 8, 3] to float32 [n, size]."""
        pixels = image.reshape(-1, 192).to(torch.float32) / 255.0 - 0.5
        return pixels.repeat(1, -(-self.size // 192))[:, : self.size]


@dataclass(frozen=True, slots=True)
class ScheduledState:
    """A state, whose image each row is (int64 [r]), and how many words it has."""

    inner: Any
    image: NDArray[np.int64]
    words: int

    def __len__(self) -> int:
        """Return r."""
        return len(self.image)

    def take(self, rows: NDArray[np.int64]) -> ScheduledState:
        """Return the state of ``rows``."""
        return ScheduledState(self.inner.take(rows), self.image[rows], self.words)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A model with random weights whose sentences end, image by image, where people's might."""

    inner: StepModel

    @property
    def tokens(self) -> SpecialTokens:
        """As the model has them."""
        return self.inner.tokens

    @property
    def vocabulary_size(self) -> int:
        """As the model has it."""
        return self.inner.vocabulary_size

    def start(self, images: EncodedImages) -> ScheduledState:
        """One row an image."""
        return ScheduledState(self.inner.start(images), np.arange(len(images)), 0)

    def step(
        self, tokens: NDArray[np.int64], state: ScheduledState, top_k: int, *, full: bool = False
    ) -> tuple[Scores, ScheduledState]:
        """Make the end sign certain where a sentence is due, and impossible before."""
        scores, inner = self.inner.step(tokens, state.inner, top_k, full=full)
        due = np.array(WORDS)[state.image] <= state.words
        values = np.where((scores.ids == EOS) | due[:, np.newaxis], -60.0, scores.values)
        scores.ids[due, 0], values[due, 0] = EOS, 0.0
        changed = Scores(scores.ids, values.astype(np.float32), scores.log_probs)
        return changed, ScheduledState(inner, state.image, state.words + 1)


def options(longest: int, *, endless: bool = False) -> DecodeOptions:
    """Return the options of a search that makes at most ``longest + 1`` steps, or exactly that."""
    return DecodeOptions(beam_size=BEAMS, max_length=longest, banned=(EOS,) if endless else ())


def encode(net: CaptionNet, features: Tensor) -> EncodedImages:
    """Return what the encoder graph would return."""
    with torch.no_grad():
        inputs = dict(zip(net.image_inputs, net.encode(features), strict=True))
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return EncodedImages(arrays, net.reference(features).numpy())


def export(net: CaptionNet, folder: Path) -> OnnxStepModel:
    """Export a net as ``mrnn export`` does, around an encoder that does nothing, and load it."""
    for name in ("tokenizer.json", "golden.npz", "MODEL_CARD.md"):
        (folder / name).touch()  # a bundle has them; nothing here reads them
    write_bundle(Placeholder(net.config.feature_size), net, folder, Preprocess(8, 8))
    return OnnxStepModel(load_bundle(folder), "cpu", threads=1)


def write_bundle(backbone: nn.Module, net: CaptionNet, folder: Path, size: Preprocess) -> None:
    """Write the graphs of a net, and the manifest of all files of the folder."""
    width = net.config.vocabulary_size
    encoder, step = graphs.EncoderGraph(backbone, net).eval(), net.step().eval()
    graphs.export_encoder(encoder, folder / "encoder.onnx", height=size.height, width=size.width)
    with torch.no_grad():
        examples = net.encode(torch.ones(2, net.config.feature_size))
    graphs.export_cell(net, step, examples, folder / "cell.onnx", vocabulary_size=width)
    manifest: dict[str, Any] = {
        **{"name": "benchmark", "version": "0", "licence": "none", "summary": "for a benchmark"},
        **{"precision": "fp32", "opset": graphs.OPSET, "training": {}},
        "preprocess": asdict(size),
        "encoder": {"file": "encoder.onnx", **graphs.describe(folder / "encoder.onnx")},
        "cell": {"file": "cell.onnx", **graphs.describe(folder / "cell.onnx")},
        "image_inputs": list(net.image_inputs),
        "state": [{"input": t.name, "output": f"next_{t.name}", "init": t.init} for t in net.state],
        "tokens": {sign.strip("<>"): i for i, sign in enumerate(SPECIALS)},
        "vocabulary_size": width,
        "decode": {"decoder": "beam", "options": {}},
        "rerank": {"reranker": None, "options": {}},
    }
    write_manifest(folder, manifest)


def medians(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, inner: int = 1
) -> tuple[float, float]:
    """Return the medians of both in ms; they take turns, ``inner`` calls at a time."""

    def often(call: Callable[[], object]) -> None:
        for _ in range(inner):
            call()

    times = in_turns(repeats, lambda: often(ours), lambda: often(theirs))
    first, second = (statistics.median(side) * 1000 / inner for side in times)
    return first, second


def measure(
    net: CaptionNet, model: StepModel, ending: StepModel, features: Tensor, repeats: int
) -> tuple[list[Row], dict[str, float]]:
    """Return all comparisons, and facts that say what they are worth.

    Args:
        net: in torch.
        model: the same net in ONNX Runtime.
        ending: the same model, whose sentences end.
        features: [n, d], of the photos.
        repeats: how often each is measured.
    """
    loop = EagerLoop(net)
    images = encode(net, features)
    rows = []
    for count, target, inner in ((1, 2.2, 200), (10, 3.0, 100), (160, 1.4, 10)):
        at = np.arange(count) % PHOTOS
        state, eager = model.start(images.take(at)), loop.start(features[torch.from_numpy(at)])
        tokens = np.arange(count) + len(SPECIALS)
        given = torch.from_numpy(tokens)
        times = medians(
            lambda tokens=tokens, state=state: model.step(tokens, state, TOP),  # type: ignore[misc]
            lambda given=given, eager=eager: loop.step(given, eager, TOP),  # type: ignore[misc]
            repeats,
            inner,
        )
        rows.append(Row(f"step, {count} row{'s' * (count > 1)}", *times, "torch eager", target))
    fixed = options(STEPS - 1, endless=True)
    times = medians(
        lambda: Beam().decode(model, images, fixed), lambda: loop.beam(features, STEPS), repeats
    )
    what = f"beam {BEAMS}, {PHOTOS} photos, {STEPS} steps"
    rows.append(Row(what, *times, "torch eager", 1.4))
    natural, endless = options(LONGEST - 1), options(LONGEST - 1, endless=True)
    times = medians(
        lambda: Beam().decode(ending, images, natural),
        lambda: Beam().decode(model, images, endless),
        repeats,
    )
    what = f"beam {BEAMS}, {PHOTOS} photos, finished images leave"
    rows.append(Row(what, *times, f"the same, {LONGEST} steps for all", 1.5))
    captions = Beam().decode(ending, images, natural)
    mine = [candidates[0].tokens for candidates in Beam().decode(model, images, fixed)]
    same = [
        one[: STEPS - 1] == tuple(other[: STEPS - 1].tolist())
        for one, other in zip(mine, loop.beam(features, STEPS - 1), strict=True)
    ]
    return rows, {
        "sentences that both sides agree on": statistics.mean(same),
        "words of a caption": statistics.mean(len(best.tokens) for best, *_ in captions),
        "vocabulary": model.vocabulary_size,
    }


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="a finished run of mrnn train")
    parser.add_argument("--cell", choices=CELLS, default="m-rnn", help="of the random net")
    parser.add_argument("--vocabulary", type=int, default=3000, help="of the random net")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, torch.inference_mode():
        net: Any = Run.open(given.run).cell() if given.run else None
        size = net.config.feature_size if net else 1280
        features = torch.randn(PHOTOS, size, generator=torch.Generator().manual_seed(0)).relu()
        if net and (net.image != {"multimodal"} or net.tied or net.word_input != 2):
            parser.error("the torch loop knows the cells m-rnn, gru and lstm only")
        if net is None:
            torch.manual_seed(0)
            sizes = NetConfig(vocabulary_size=given.vocabulary, feature_size=size)
            net = CELLS[given.cell](sizes).eval()
        model = export(net, Path(folder))
        ending = model if given.run else Scheduled(model)
        rows, facts = measure(net, model, ending, features, given.repeats)
    print("| what | runtime, ms | compared with | ms | times faster | aimed at |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.what} | {row.ours:.3g} | {row.against} | {row.theirs:.3g} "
            f"| **{row.ratio:.2f}** | {row.target:g} |"
        )
    print()
    for name, value in facts.items():
        print(f"- {name}: {value:g}")
    if given.json:
        record = {
            "machine": platform.platform(),
            "processor": platform.processor(),
            "torch": torch.__version__,
            "repeats": given.repeats,
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
            **facts,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
