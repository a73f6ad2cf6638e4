"""How likely a model finds given sentences: ln P(sentence | image) for all pairs of the two.

Sentences that begin alike share their beginning, as in a prefix trie. Where the model's recurrence
never sees the image and the bundle holds a readout (the m-RNN's does), the language half runs once
per branch, whatever the number of images; what is left is the softmax's product and its exact
normaliser. Any other model runs whole, once per branch and image.

Letters in shapes: n images, s sentences, b branches, t branches of a block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.engine.model import OnnxStepModel
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.engine.model import OnnxReadout
    from mrnn_runtime.plugins.contracts import StepModel
    from mrnn_runtime.types import EncodedImages

IMAGES = 32  # of one call; more gain nothing
_ROWS = 512  # as large as a product must be to run at full speed, and no larger


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """Sentences as a tree: a branch for each beginning that some of them share, the root first.

    Branches stand in the order of their length, and those that go on from one branch side by side.

    Attributes:
        tokens: int64 [b], the last token of each branch; the start sign's id at the root.
        parents: int64 [b], the branch that it goes on from; 0 at the root.
        children: int64 [b + 1], where those that go on from each branch begin.
        levels: int64 [l + 1], where the branches of each length begin.
        ends: int64 [s], the branch that is each sentence.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    children: NDArray[np.int64]
    levels: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        """Return s."""
        return len(self.ends)

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]], bos: int) -> Sentences:
        """Build the tree of sentences that are word ids without start and end sign.

        Raises:
            UsageError: a sentence is empty, or there is none.
        """
        if not sentences or not all(sentences):
            raise UsageError("a sentence without a word cannot be scored", hint="leave it out")
        order = sorted(range(len(sentences)), key=lambda i: tuple(sentences[i]))
        tokens, parents, levels = [bos], [0], [0, 1]
        ends = np.zeros(len(sentences), np.int64)
        last = [0] * len(sentences)  # the branch that each sentence has come to
        alive = order
        while alive := [i for i in alive if len(sentences[i]) >= len(levels) - 1]:
            depth = len(levels) - 2
            before = None
            for i in alive:  # sorted, so that equal beginnings stand side by side
                branch = (last[i], sentences[i][depth])
                if branch != before:
                    tokens.append(branch[1])
                    parents.append(branch[0])
                before = branch
                last[i] = ends[i] = len(tokens) - 1
            levels.append(len(tokens))
        above = np.array(parents, np.int64)
        return cls(
            tokens=np.array(tokens, np.int64),
            parents=above,
            children=1 + np.searchsorted(above[1:], np.arange(len(tokens) + 1)),
            levels=np.array(levels, np.int64),
            ends=ends,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A model and sentences, ready to meet images; may be used by several threads at a time.

    Attributes:
        model: the language half, one step at a time.
        sentences: what is scored.
        readout: the model's upper half, or None.
        states: where there is a readout, what it reads of each branch, each [b, ...].
    """

    model: StepModel
    sentences: Sentences
    readout: OnnxReadout | None
    states: Mapping[str, NDArray[Any]]

    def log_probs(self, images: EncodedImages) -> NDArray[np.float64]:
        """Return ln P(sentence | image), the end sign counted, float64 [n, s].

        No number depends on which other images or sentences there are.
        """
        rows = np.arange(len(images))
        parts = [images.take(rows[i : i + IMAGES]) for i in range(0, len(rows), IMAGES)]
        blocks = [self._some(part) for part in parts]
        return np.concatenate(blocks) if blocks else np.empty((0, len(self.sentences)))

    def _some(self, images: EncodedImages) -> NDArray[np.float64]:
        tree, eos = self.sentences, self.model.tokens.eos
        ended = np.zeros(len(tree.tokens), bool)
        ended[tree.ends] = True
        sums = np.zeros((len(tree.tokens), len(images)))
        totals = np.zeros_like(sums)
        blocks = self._whole(images) if self.readout is None else self._upper(images)
        for first, scores in blocks:
            stop = first + len(scores)
            below = np.arange(tree.children[first], tree.children[stop])
            above = tree.parents[below]
            sums[below] = sums[above] + scores[above - first, :, tree.tokens[below]]
            end = first + np.flatnonzero(ended[first:stop])
            totals[end] = sums[end] + scores[end - first, :, eos]
        return totals[tree.ends].T

    def _upper(self, images: EncodedImages) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield for each block of one level the first branch and the scores, float32 [t, n, V]."""
        assert self.readout is not None
        size = max(1, _ROWS // len(images))
        for begin, end in pairwise(self.sentences.levels.tolist()):
            for first in range(begin, end, size):
                block = slice(first, min(first + size, end))
                states = {name: array[block] for name, array in self.states.items()}
                yield first, self.readout.log_probs(self.sentences.tokens[block], states, images)

    def _whole(self, images: EncodedImages) -> Iterator[tuple[int, NDArray[np.float32]]]:
        start = self.model.start(images)
        for first, scores, _ in run_over_tree(self.model, start, self.sentences, full=True):
            assert scores is not None  # full=True promises them
            yield first, scores


def run_over_tree(
    model: StepModel,
    start: Any,  # noqa: ANN401 - a state, whatever it is to the model
    tree: Sentences,
    *,
    full: bool,
) -> Iterator[tuple[int, NDArray[np.float32] | None, Any]]:
    """Run a model over all branches for each image, a parent before those that go on from it.

    Args:
        model: the language half.
        start: its state before the start sign, a row for each of n images.
        tree: the sentences.
        full: whether the scores are wanted.

    Yields:
        For each block of t branches that stand side by side: the first one, the scores of the next
        token, float32 [t, n, V], where ``full`` says so, and the state, t x n rows.
    """
    n = len(start)
    size = max(1, _ROWS // n)
    blocks = [(0, 1, start)]
    while blocks:
        first, stop, state = blocks.pop()
        tokens = np.repeat(tree.tokens[first:stop], n)
        scores, after = model.step(tokens, state, 0, full=full)
        log_probs = scores.log_probs
        yield first, None if log_probs is None else log_probs.reshape(stop - first, n, -1), after
        begin, end = int(tree.children[first]), int(tree.children[stop])
        for start_of_block in range(begin, end, size):
            last = min(start_of_block + size, end)
            above = tree.parents[start_of_block:last] - first
            rows = (above[:, None] * n + np.arange(n)).ravel()
            blocks.append((start_of_block, last, after.take(rows)))


def load_scorer(model: StepModel, sentences: Sequence[Sequence[int]]) -> Scorer:
    """Make sentences ready to be scored, with the readout of the model where it has one.

    Args:
        model: of a loaded captioner.
        sentences: the word ids of each sentence, without start and end sign.

    Raises:
        UsageError: a sentence has no word, or no sentence is there.
        BundleError: the readout's graph does not load.
    """
    tree = Sentences.of(sentences, model.tokens.bos)
    if not isinstance(model, OnnxStepModel) or (readout := model.readout) is None:
        return Scorer(model, tree, None, {})
    states: dict[str, NDArray[Any]] = {}
    for first, _, state in run_over_tree(model, model.start_blank(), tree, full=False):
        for name, array in readout.states(state).items():
            if name not in states:
                states[name] = np.empty((len(tree.tokens), *array.shape[1:]), array.dtype)
            states[name][first : first + len(array)] = array
    return Scorer(model, tree, readout, states)
