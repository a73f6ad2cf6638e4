"""The decoders by example: what greedy and beam search find, and what they ask of the model."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.decoding.greedy import Greedy
from mrnn_runtime.decoding.sample import Sample
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.plugins.contracts import Decoder
from mrnn_runtime.testing import TableModel, encoded_images
from mrnn_runtime.types import DecodeOptions, Scores, SpecialTokens

PAD, BOS, EOS, UNK, A, B, C = range(7)

all_decoders = pytest.mark.parametrize(
    "decoder", [Greedy(), Beam(), Sample()], ids=lambda decoder: type(decoder).__name__
)


@dataclass(frozen=True)
class Rows:
    index: np.ndarray

    def __len__(self):
        return len(self.index)

    def take(self, rows):
        return Rows(self.index[rows])


class Bigrams:
    """A model of three words: ``chances[last]`` holds the next token's probabilities, as far as
    they matter. What is not listed is very unlikely, in any order of ids. Notes what it is asked.
    """

    tokens = SpecialTokens(pad=PAD, bos=BOS, eos=EOS, unk=UNK)
    vocabulary_size = 7

    def __init__(self, chances):
        self.log_probs = np.full((7, 7), -20.0, dtype=np.float32)
        for last, row in chances.items():
            for token, chance in row.items():
                self.log_probs[last, token] = np.log(chance)
        self.asked = []

    def start(self, images):
        return Rows(np.arange(len(images)))

    def step(self, tokens, state, top_k, *, full=False):
        assert len(tokens) == len(state)
        self.asked.append((tokens.tolist(), top_k, full))
        log_probs = self.log_probs[tokens]
        ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :top_k]
        values = np.take_along_axis(log_probs, ids, axis=1)
        return Scores(ids, values, log_probs if full else None), state


# Greedy says A; B C is more probable than A followed by anything.
TRAP = {
    BOS: {A: 0.5, B: 0.4, C: 0.1},
    A: {A: 0.3, B: 0.25, C: 0.25, EOS: 0.2},
    B: {C: 0.9, EOS: 0.1},
    C: {EOS: 0.9, A: 0.1},
}


def decode(decoder, model, count=1, **options):
    return decoder.decode(model, encoded_images(count), DecodeOptions(**options))


def texts(candidates):
    return ["".join(" ABC"[token - 3] for token in candidate.tokens) for candidate in candidates]


@all_decoders
def test_each_is_a_decoder(decoder):
    assert isinstance(decoder, Decoder)


@all_decoders
def test_no_images_no_captions(decoder):
    assert decode(decoder, TableModel(), count=0) == []


def test_beam_avoids_the_trap_that_greedy_takes():
    [[greedy]] = decode(Greedy(), Bigrams(TRAP), max_length=2)
    [[beam]] = decode(Beam(), Bigrams(TRAP), max_length=2, beam_size=2)
    assert (texts([greedy]), greedy.finished) == (["AA"], False)
    assert greedy.log_prob == pytest.approx(np.log(0.5 * 0.3))
    assert (texts([beam]), beam.finished) == (["BC"], True)
    assert beam.log_prob == pytest.approx(np.log(0.4 * 0.9 * 0.9))


def test_the_end_sign_counts_as_length():
    [[plain]] = decode(Beam(), Bigrams(TRAP), beam_size=2)
    [[normed]] = decode(Beam(), Bigrams(TRAP), beam_size=2, length_penalty=1.0)
    assert plain.score == plain.log_prob
    assert normed.score == plain.log_prob / 3


def test_a_length_penalty_prefers_the_longer_caption():
    model = Bigrams({BOS: {A: 0.6, B: 0.4}, A: {EOS: 1.0}, B: {C: 1.0}, C: {EOS: 0.9}})
    assert texts(decode(Beam(), model, n_best=2)[0]) == ["A", "BC"]
    assert texts(decode(Beam(), model, n_best=2, length_penalty=2.0)[0]) == ["BC", "A"]


def test_an_exact_search_goes_on_for_a_longer_caption_that_scores_higher():
    model = Bigrams({BOS: {A: 0.6, B: 0.4}, A: {EOS: 1.0}, B: {C: 1.0}, C: {EOS: 0.9}})
    options = {"beam_size": 1, "length_penalty": 2.0}
    model.log_probs[A, B] = np.log(0.3)  # A is finished and more probable, A B C scores higher
    assert texts(decode(Beam(), model, **options)[0]) == ["A"]
    assert texts(decode(Beam(), model, **options, exact=True)[0]) == ["ABC"]


def test_an_unfinished_caption_stands_behind_a_less_probable_finished_one():
    model = Bigrams({BOS: {A: 0.9, B: 0.1}, A: {A: 1.0}, B: {EOS: 0.3, B: 0.7}})
    candidates = decode(Beam(), model, max_length=1, beam_size=3, n_best=2)[0]
    assert texts(candidates) == ["B", "A"]
    assert [candidate.finished for candidate in candidates] == [True, False]


def test_the_beam_refills_after_an_end():
    """Although pad, bos and unk are the most probable tokens, and the end sign comes next."""
    chances = {PAD: 0.2, BOS: 0.2, UNK: 0.2, EOS: 0.15, A: 0.12, B: 0.08, C: 0.05}
    model = Bigrams({BOS: {A: 1.0}, A: chances, B: {EOS: 1.0}, C: {EOS: 1.0}})
    candidates = decode(Beam(), model, beam_size=2, n_best=3, max_length=2)[0]
    assert texts(candidates)[:2] == ["A", "AB"]


def test_equal_scores_put_the_shorter_then_the_lower_ids_first():
    even = {A: 0.25, B: 0.25, C: 0.25, EOS: 0.25}
    model = Bigrams({BOS: {A: 0.5, B: 0.5}, A: even, B: even, C: {EOS: 1.0}})
    candidates = decode(Beam(), model, beam_size=8, n_best=4, max_length=2)[0]
    assert texts(candidates) == ["A", "B", "AC", "BC"]


def test_a_forced_prefix_counts_in_the_log_probability():
    for decoder in (Greedy(), Beam()):
        [[candidate]] = decode(decoder, Bigrams(TRAP), prefix=(C, A, B))
        assert texts([candidate]) == ["CABC"]
        expected = 0.1 * 0.1 * 0.25 * 0.9 * 0.9
        assert candidate.log_prob == pytest.approx(np.log(expected))


@all_decoders
def test_a_caption_that_may_not_end_is_cut(decoder):
    [candidates] = decode(decoder, Bigrams(TRAP), banned=(EOS,), max_length=3)
    assert [(len(c.tokens), c.finished) for c in candidates] == [(3, False)]


@all_decoders
def test_a_caption_with_no_token_left_is_cut(decoder):
    candidates = decode(
        decoder, Bigrams(TRAP), no_repeat_ngram=1, min_length=5, max_length=9, n_best=2
    )
    assert {(tuple(sorted(c.tokens)), c.finished) for c in candidates[0]} == {((A, B, C), False)}


def test_images_with_unequal_numbers_of_hypotheses_share_a_batch():
    """Which 2-grams are spent differs between images, and so does what the beam can hold."""
    options = DecodeOptions(beam_size=4, n_best=4, no_repeat_ngram=2, max_length=6)
    images = encoded_images(8)
    for seed in range(10):
        model = TableModel(vocabulary_size=6, seed=seed, end_bias=-9.0)
        alone = [
            Beam().decode(model, images.take(np.array([i])), options)[0] for i in range(len(images))
        ]
        assert Beam().decode(model, images, options) == alone


def test_a_search_ends_when_the_best_live_hypothesis_can_only_tie():
    model = Bigrams({BOS: {A: 1.0}, A: {EOS: 0.5, B: 0.5}, B: {EOS: 1.0}})
    assert texts(decode(Beam(), model, beam_size=2)[0]) == ["A"]
    assert [tokens for tokens, _, _ in model.asked] == [[BOS], [A, B]]


@pytest.mark.parametrize(("top_p", "drawn"), [(1 / 3, {"A"}), (0.5, {"A", "B"})])
def test_top_p_takes_the_fewest_and_of_equal_tokens_the_lower_ids(top_p, drawn):
    model = Bigrams({BOS: {A: 1 / 3, B: 1 / 3, C: 1 / 3}})
    candidates = decode(Sample(), model, top_p=top_p, n_best=50, max_length=1)[0]
    assert set(texts(candidates)) == drawn


def test_greedy_asks_for_one_token_and_those_that_may_be_forbidden():
    model = Bigrams(TRAP)
    decode(Greedy(), model, count=2, min_length=2, max_length=2)
    # pad, bos, unk; the end sign before the second word
    assert model.asked == [
        ([BOS, BOS], 1 + 4, False),
        ([A, A], 1 + 4, False),
        ([A, A], 1 + 3, False),
    ]


def test_beam_asks_for_its_size_the_end_sign_and_those_that_may_be_forbidden():
    model = Bigrams(TRAP)
    decode(Beam(), model, count=2, beam_size=2, max_length=1)
    assert model.asked == [
        ([BOS, BOS], 3 + 4, False),
        ([A, B, A, B], 3 + 3, False),
    ]


def test_a_vocabulary_is_the_most_that_is_asked_for():
    model = Bigrams(TRAP)
    decode(Beam(), model, beam_size=9, max_length=1)
    assert {top_k for _, top_k, _ in model.asked} == {7}


def test_only_a_prefix_asks_for_the_whole_distribution():
    model = Bigrams(TRAP)
    decode(Beam(), model, prefix=(A, B), max_length=4)
    assert [full for _, _, full in model.asked[:3]] == [True, True, False]


@all_decoders
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"banned": (4, 7)}, r"banned has token ids \[7\], the vocabulary ends at 6"),
        ({"prefix": (4, 9)}, r"prefix has token ids \[9\]"),
        ({"prefix": (4, EOS)}, r"prefix has token ids \[2\], which are no words"),
        ({"prefix": (PAD,)}, "which are no words"),
        ({"banned": (A, B, C)}, "banned forbids all 3 words"),
    ],
)
def test_options_that_do_not_fit_the_vocabulary(decoder, options, message):
    with pytest.raises(UsageError, match=message):
        decode(decoder, Bigrams(TRAP), **options)


class Broken(TableModel):
    def step(self, tokens, state, top_k, *, full=False):
        scores, state = super().step(tokens, state, top_k, full=full)
        values = np.full_like(scores.values, np.nan)
        return replace(scores, values=values, log_probs=None), state


@all_decoders
def test_a_model_without_numbers_is_refused(decoder):
    with pytest.raises(BundleError, match="not finite"):
        decode(decoder, Broken())
