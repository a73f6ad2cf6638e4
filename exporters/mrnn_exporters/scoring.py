"""The log-probability of given sentences, teacher-forced through the runtime.

:func:`log_probs` takes any pairs of photo and sentence; perplexity is one use of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mrnn_exporters.progress import on_all_cores
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import Captioner, EncodedImages, StepModel

_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """How well a model predicts the sentences of a data set.

    Attributes:
        value: 2 ** (mean -log2 P) over words and <eos>.
        words: how many words and <eos> there were.
        unknown: how many of them were counted as <unk>.
        vocabulary_size: V; perplexities of different vocabularies do not compare.
        min_count: a word seen less often in training is <unk>; None where the bundle does not say.
    """

    value: float
    words: int
    unknown: int
    vocabulary_size: int
    min_count: int | None


def measure_perplexity(
    captioner: Captioner, images: EncodedImages, captions: Sequence[Sequence[str]]
) -> Perplexity:
    """Return the perplexity of sentences, per photo a group; one without a word is left out.

    Raises:
        UsageError: no sentence has a word.
    """
    vocabulary, model = captioner.vocabulary, captioner.model
    pairs = [
        (row, ids)
        for row, group in enumerate(captions)
        for sentence in group
        if (ids := vocabulary.encode(sentence))
    ]
    if not pairs:
        raise UsageError("no caption of the split has a word", hint="check the data set")
    pairs.sort(key=lambda pair: -len(pair[1]))  # a block of equal lengths has no idle rows
    blocks = [pairs[i : i + _ROWS] for i in range(0, len(pairs), _ROWS)]
    totals = on_all_cores(partial(log_probs, model, images), blocks, "perplexity")
    cost = -math.fsum(float(part.sum()) for part in totals)
    words = sum(len(ids) + 1 for _, ids in pairs)
    training = captioner.bundle.training.get("config", {})
    return Perplexity(
        value=math.exp(cost / words),
        words=words,
        unknown=sum(ids.count(model.tokens.unk) for _, ids in pairs),
        vocabulary_size=model.vocabulary_size,
        min_count=training.get("min_count") if isinstance(training, dict) else None,
    )


def log_probs(
    model: StepModel, images: EncodedImages, pairs: Sequence[tuple[int, Sequence[int]]]
) -> NDArray[np.float64]:
    """Return ln P(sentence | photo), <eos> counted, float64 [s].

    Each pair is the photo's row in ``images`` and the sentence's word ids. All sentences are the
    rows of one call a step; the longest first, so that those that have ended are cut off behind.
    """
    order = np.array(sorted(range(len(pairs)), key=lambda i: -len(pairs[i][1])), np.int64)
    lengths = np.array([len(pairs[i][1]) + 1 for i in order])
    targets = np.full((int(lengths.max(initial=0)), len(pairs)), model.tokens.eos, np.int64)
    for row, i in enumerate(order):
        targets[: lengths[row] - 1, row] = pairs[i][1]
    sums = np.zeros(len(pairs))
    state = model.start(images.take(np.array([pairs[i][0] for i in order], np.int64)))
    tokens = np.full(len(pairs), model.tokens.bos, np.int64)
    for step, following in enumerate(targets):
        alive = int((lengths > step).sum())
        if alive < len(tokens):
            state = state.take(np.arange(alive))
        scores, state = model.step(tokens[:alive], state, 0, full=True)
        assert scores.log_probs is not None  # full=True promises them
        tokens = following[:alive]
        sums[:alive] += scores.log_probs[np.arange(alive), tokens]
    result = np.empty(len(pairs))
    result[order] = sums
    return result
