"""The data that passes between the parts of the runtime. Frozen; arrays are never written to.

Letters in shapes: n images, r rows (images times beams), h/w pixels, V vocabulary, k best,
d feature size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeAlias, TypedDict, TypeVar

from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from mrnn_runtime.errors import ImageError

# One image: a path, the bytes of a file, a file opened in binary mode, an image of Pillow, or an
# array uint8 [h, w, 3] RGB.
ImageSource: TypeAlias = "str | Path | bytes | BinaryIO | Image | NDArray[np.uint8]"

T = TypeVar("T")

# Of the encoder's input: more would keep a machine busy for ever, or fill its memory.
MOST_PIXELS_A_SIDE = 4096

# The tokens that are no words, in the order of their ids.
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids of the four tokens that are no words."""

    pad: int
    bos: int
    eos: int
    unk: int

    @property
    def never(self) -> tuple[int, int, int]:
        """The ids that no caption may contain: pad, bos and unk."""
        return (self.pad, self.bos, self.unk)


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """What the encoder makes of n images.

    Attributes:
        inputs: the image inputs that the cell declares, by name, each [n, ...] (m-RNN: image_term
            float32 [n, m]); also the initial state tensors of cells whose state starts from the
            image.
        reference_feature: float32 [n, d], where consensus reranking looks for neighbours.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    reference_feature: NDArray[np.float32]

    def __len__(self) -> int:
        """Return n."""
        return len(self.reference_feature)

    def take(self, rows: NDArray[np.int64]) -> EncodedImages:
        """Return the images at ``rows``, int64 [r], in that order; repeats are allowed."""
        return EncodedImages(
            inputs={name: array[rows] for name, array in self.inputs.items()},
            reference_feature=self.reference_feature[rows],
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """The next-word distribution of r rows.

    Attributes:
        ids: int64 [r, k], the k best tokens of each row, best first; of equal scores the lower id
            first.
        values: float32 [r, k], their natural log-probabilities.
        log_probs: float32 [r, V], the whole distribution, where the step was asked for it, else
            None.
    """

    ids: NDArray[np.int64]
    values: NDArray[np.float32]
    log_probs: NDArray[np.float32] | None = None


def _within(default: T, least: float, most: float) -> T:
    """Return a field whose closed range ``_check_ranges`` enforces.

    More would keep a machine busy for ever, fill its memory, or mean nothing.
    """
    return field(default=default, metadata={"range": (least, most)})


def _check_ranges(options: DecodeOptions | RerankOptions) -> None:
    """Refuse numbers of the wrong type or out of range; None is none."""
    for each in fields(options):
        value = getattr(options, each.name)
        if "range" not in each.metadata or (value is None and each.default is None):
            continue
        low, high = each.metadata["range"]
        is_real = isinstance(each.default, float)
        kinds = int | float if is_real else int
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            is_long = isinstance(value, int) and value.bit_length() > 64  # Python does not print it
            raise UsageError(
                f"{each.name} must be a {'number' if is_real else 'whole number'} in"
                f" {low}..{high}, not {'one so large' if is_long else repr(value):.40}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How to search for a caption. Words are token ids here; the captioner translates.

    A decoder ignores what does not concern it: greedy keeps one hypothesis whatever ``beam_size``
    says, only sampling reads ``temperature``, ``top_k``, ``top_p`` and ``seed``.

    Attributes:
        beam_size: hypotheses kept per image.
        n_best: candidates returned per image, at most; the number of samples drawn.
        min_length: words that a caption has at least; the end sign does not count.
        max_length: words that a caption has at most; one that would go on is cut there and is
            not ``finished``.
        length_penalty: alpha in score = log_prob / length ** alpha, length in words and end sign;
            0 is the plain sum.
        exact: whether beam search goes on until no live hypothesis can come among the n best any
            more, even where ``beam_size`` captions are finished; it matters with a length penalty.
        no_repeat_ngram: no n-gram of this size occurs twice in a caption; 0 allows all.
        banned: token ids that no caption may contain; with the end sign's id no caption ends
            before max_length.
        prefix: token ids that every caption starts with; their log-probabilities count, their words
            count as length.
        temperature: divides the log-probabilities before sampling; below 1 sharper, above flatter.
        top_k: sample among this many of the best tokens only; 0 is all.
        top_p: sample among the fewest best tokens that together hold this much probability; 1 is
            all.
        seed: where the random numbers start.
        deadline_ms: milliseconds after which no caption grows: what is there by then is returned,
            not ``finished`` perhaps, but a word at least; 0 is no deadline. The images of a batch
            share it. With one, the same input need not give the same output.

    Raises:
        UsageError: a value is of the wrong type or out of range, or two do not fit together.
    """

    beam_size: int = _within(5, 1, 1000)
    n_best: int = _within(1, 1, 1000)
    min_length: int = _within(1, 1, 1000)
    max_length: int = _within(20, 1, 1000)
    length_penalty: float = _within(0.0, 0, 10)
    exact: bool = False
    no_repeat_ngram: int = _within(0, 0, 1000)
    banned: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    temperature: float = _within(1.0, 0.01, 100)
    top_k: int = _within(0, 0, 1_000_000)
    top_p: float = _within(1.0, 1e-6, 1)
    seed: int = _within(0, 0, 2**63 - 1)
    deadline_ms: int = _within(0, 0, 86_400_000)

    def __post_init__(self) -> None:
        """Refuse what cannot be done, here and nowhere else."""
        _check_ranges(self)
        if not isinstance(self.exact, bool):
            raise UsageError(f"exact must be True or False, not {self.exact!r}")
        for name in ("banned", "prefix"):
            ids = getattr(self, name)
            if not isinstance(ids, tuple) or not all(type(i) is int and i >= 0 for i in ids):
                raise UsageError(f"{name} must be a tuple of token ids, not {ids!r}")
        if self.max_length < self.min_length:
            raise UsageError(
                f"max_length {self.max_length} is smaller than min_length {self.min_length}"
            )
        if len(self.prefix) > self.max_length:
            raise UsageError(
                f"the prefix has {len(self.prefix)} words, max_length allows {self.max_length}"
            )
        if clash := set(self.prefix) & set(self.banned):
            raise UsageError(f"the prefix contains banned token ids: {sorted(clash)}")
        size = self.no_repeat_ngram
        ngrams = [self.prefix[i : i + size] for i in range(len(self.prefix) - size + 1)]
        if size and len(set(ngrams)) < len(ngrams):
            raise UsageError(f"the prefix repeats an n-gram of no_repeat_ngram {size} words")


class DecodeChanges(TypedDict, total=False):
    """What a caller changes of ``DecodeOptions``, in words; None is as the options have it.

    ``banned_words`` come on top of those that the bundle bans; ``prefix`` is what every caption
    starts with. The others are the fields of ``DecodeOptions``.
    """

    beam_size: int | None
    n_best: int | None
    min_length: int | None
    max_length: int | None
    length_penalty: float | None
    exact: bool | None
    no_repeat_ngram: int | None
    banned_words: Sequence[str]
    prefix: str
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    deadline_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankOptions:
    """How a reranker chooses. One that needs no references ignores all of it.

    Attributes:
        k: reference images that vote, the nearest ones; None is the reranker's own number.
        m: of the similarities to their captions, how many of the largest count; None likewise.
        references: the folder of the references, or None for those of the bundle.
        leave_one_out: whether a reference that is the photo itself has no vote. It is one where
            the features differ by less than a hundredth of the photo's, whatever its file is
            called.

    Raises:
        UsageError: k or m is no whole number of at least 1.
    """

    k: int | None = _within(None, 1, 100_000)
    m: int | None = _within(None, 1, 100_000)
    references: Path | None = None
    leave_one_out: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        _check_ranges(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One caption that a decoder proposes.

    Attributes:
        tokens: the word ids, without start and end sign; never empty.
        log_prob: natural log-probability, summed over the words and, where finished, the end sign.
        score: what the decoder ranked it by (log_prob under the length penalty).
        finished: False where the caption was cut at the maximum length, or where the options
            allowed no token after it.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finished: bool


@dataclass(frozen=True, slots=True)
class CaptionCandidate:
    """A candidate in words: what a user sees of it.

    Attributes:
        caption: the text.
        log_prob: natural log-probability, summed over words and end sign.
        score: what the decoder ranked it by.
        finished: False where it was cut at the maximum length.
        rank: its place in the decoder's order, from 1.
        rerank_score: what the reranker ranked it by, or None where there is no reranker.
        confidence: the probability that it is a good caption, 0..1, or None where the bundle was
            not calibrated for this search.
    """

    caption: str
    log_prob: float
    score: float
    finished: bool
    rank: int
    rerank_score: float | None = None
    confidence: float | None = None

    def record(self, rank: int) -> dict[str, object]:
        """Return its part of ``Caption.record``; it stands at ``rank``, from 1."""
        fields: dict[str, object] = {"caption": self.caption, "log_prob": self.log_prob}
        if self.rerank_score is None:
            return fields | {"score": self.score}
        return fields | {"score": self.rerank_score, "rank_before": self.rank, "rank": rank}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A reference image that had a vote.

    Attributes:
        image: its id in the references, mostly the name of its file.
        distance: Euclidean, between its feature and the photo's.
    """

    image: str
    distance: float


@dataclass(frozen=True, slots=True)
class Caption:
    """The result for one image.

    Attributes:
        path: the image as the caller named it; for one in memory the name that it brings, else its
            place in the call.
        text: the caption; empty only where ``error`` says why.
        log_prob: natural log-probability of the caption, summed over words and end sign; None where
            there is no caption.
        finished: False where the caption was cut at the maximum length.
        candidates: the n best, best first; the first one is ``text``.
        model: the name of the bundle.
        provider: the execution provider that the graphs really ran on, for example
            CPUExecutionProvider.
        decoder: the decoder's name.
        reranker: the reranker's name, or None where there is none.
        neighbours: the reference images that had a vote, the nearest first; filled where an
            explanation was asked for.
        error: what went wrong with this image and what to do, or None.
        confidence: the probability that the caption is a good one, 0..1, or None where the bundle
            was not calibrated for this search.
    """

    path: str
    text: str
    log_prob: float | None
    finished: bool
    candidates: tuple[CaptionCandidate, ...]
    model: str
    provider: str
    decoder: str
    reranker: str | None = None
    neighbours: tuple[Neighbour, ...] = ()
    error: ImageError | None = None
    confidence: float | None = None

    def record(self) -> dict[str, object]:
        """Return what a line of ``mrnn caption --format jsonl`` holds, for ``json.dumps``.

        Of an image that cannot be read: ``path`` and ``error``. Of any other: ``caption`` (None
        where it was kept back), ``log_prob`` and the other attributes. The ``score`` of a candidate
        is what the candidates are sorted by; where they were reranked, ``rank_before`` is the
        place that the decoder gave it.
        """
        if self.error is not None:
            return {"path": self.path, "error": str(self.error)}
        fields: dict[str, object] = {
            "path": self.path,
            "caption": self.text or None,
            "log_prob": self.log_prob,
            "finished": self.finished,
            "confidence": self.confidence,
            "candidates": [one.record(rank) for rank, one in enumerate(self.candidates, start=1)],
            "model": self.model,
            "provider": self.provider,
            "decoder": self.decoder,
            "reranker": self.reranker,
        }
        if self.neighbours:
            fields["neighbours"] = [
                {"image": one.image, "distance": one.distance} for one in self.neighbours
            ]
        return fields


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a photo becomes the encoder's input uint8 [h, w, 3].

    Attributes:
        height: h in pixels.
        width: w in pixels.
        resize: ``squash`` (both sides to size, aspect not kept) or ``crop`` (short side to size,
            centre crop).
        interpolation: ``bilinear`` or ``bicubic``, Pillow's, with antialiasing.
        reduced: whether a JPEG is decoded at a half, a quarter or an eighth of its size, where both
            sides stay at least twice as large as the input's larger one. Large photos are read
            several times faster then, and become slightly other pixels: in training as well.
    """

    height: int
    width: int
    resize: str = "squash"
    interpolation: str = "bilinear"
    reduced: bool = False

    def __post_init__(self) -> None:
        """Refuse a recipe that the runtime does not know."""
        if not all(1 <= side <= MOST_PIXELS_A_SIDE for side in (self.height, self.width)):
            raise UsageError(
                f"preprocess size {self.height} x {self.width} lies outside 1..{MOST_PIXELS_A_SIDE}"
            )
        if self.resize not in ("squash", "crop"):
            raise UsageError(f"unknown resize rule {self.resize!r}", hint="use squash or crop")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UsageError(
                f"unknown interpolation {self.interpolation!r}", hint="use bilinear or bicubic"
            )
