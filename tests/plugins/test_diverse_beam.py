"""Diverse beam search: the contract of decoders, what groups do, and what makes it plain beam."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime import DecodeOptions, Scores, SpecialTokens, UsageError
from mrnn_runtime.decoding import rank
from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.testing import TableModel, encoded_images, plugin_checks

plugin = pytest.importorskip("mrnn_diverse_beam")
search = pytest.importorskip("mrnn_diverse_beam.search")
DiverseBeam = search.DiverseBeam

EOS, A, B, C = 2, 4, 5, 6


@pytest.mark.parametrize("check", plugin_checks(plugin), ids=str)
def test_contract(check):
    check.run()


@st.composite
def cases(draw):
    """A model, four images and options that fit together."""
    model = TableModel(
        vocabulary_size=draw(st.integers(5, 9)),
        seed=draw(st.integers(0, 1000)),
        levels=draw(st.sampled_from([0, 2])),
        end_bias=draw(st.sampled_from([-3.0, 0.0, 3.0])),
    )
    max_length = draw(st.integers(1, 5))
    options = DecodeOptions(
        beam_size=draw(st.integers(1, 7)),
        n_best=draw(st.integers(1, 6)),
        min_length=draw(st.integers(1, max_length)),
        max_length=max_length,
        length_penalty=draw(st.sampled_from([0.0, 0.7, 3.0])),
        no_repeat_ngram=draw(st.integers(0, 2)),
        prefix=draw(st.sampled_from([(), (4,)])),
    )
    return model, encoded_images(4, seed=draw(st.integers(0, 100))), options


@given(cases(), st.floats(0, 5))
@settings(max_examples=150, deadline=None)
def test_one_group_is_beam_search(case, strength):
    decoded = DiverseBeam(groups=1, strength=strength).decode(*case)
    assert decoded == Beam().decode(*case)


@given(cases(), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_groups_that_do_not_mind_each_other_find_what_a_small_beam_finds(case, groups):
    model, images, options = case
    small = options.beam_size
    options = replace(options, beam_size=groups * small)
    decoded = DiverseBeam(groups=groups, strength=0.0).decode(model, images, options)
    assert decoded == Beam().decode(model, images, replace(options, beam_size=small))


@given(cases(), st.integers(1, 4), st.sampled_from([0.5, 3.0]))
@settings(max_examples=150, deadline=None)
def test_candidates_are_ranked_unique_and_independent_of_the_batch(case, groups, strength):
    model, images, options = case
    decoder = DiverseBeam(groups, strength)
    together = decoder.decode(model, images, options)
    alone = [images.take(np.array([i])) for i in range(len(images))]
    assert together == [decoder.decode(model, one, options)[0] for one in alone]
    for candidates in together:
        assert candidates == rank(candidates, options.n_best)
        assert len({candidate.tokens for candidate in candidates}) == len(candidates)


@given(cases())
@settings(max_examples=100, deadline=None)
def test_fewer_candidates_are_the_first_of_more(case):
    model, images, options = case
    few = DiverseBeam().decode(model, images, options)
    many = DiverseBeam().decode(model, images, replace(options, n_best=50))
    assert few == [candidates[: options.n_best] for candidates in many]


@dataclass(frozen=True)
class Rows:
    index: np.ndarray

    def __len__(self):
        return len(self.index)

    def take(self, rows):
        return Rows(self.index[rows])


class Bigrams:
    """A model of three words; notes how many rows it is fed."""

    tokens = SpecialTokens(pad=0, bos=1, eos=EOS, unk=3)
    vocabulary_size = 7

    def __init__(self, chances):
        self.log_probs = np.full((7, 7), -20.0, dtype=np.float32)
        for last, row in chances.items():
            for token, chance in row.items():
                self.log_probs[last, token] = np.log(chance)
        self.fed = []

    def start(self, images):
        return Rows(np.arange(len(images)))

    def step(self, tokens, state, top_k, *, full=False):
        self.fed.append(len(tokens))
        log_probs = self.log_probs[tokens]
        ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :top_k]
        values = np.take_along_axis(log_probs, ids, axis=1)
        return Scores(ids, values, log_probs if full else None), state


# Every caption begins with A but for one in ten; after each word it ends.
SURE = {1: {A: 0.8, B: 0.15, C: 0.05}, A: {EOS: 0.9}, B: {EOS: 0.9}, C: {EOS: 0.9}}


def first_words(decoder, **options):
    options = DecodeOptions(n_best=3, max_length=4, **options)
    return [one.tokens[0] for one in decoder.decode(Bigrams(SURE), encoded_images(1), options)[0]]


@pytest.mark.parametrize(
    ("strength", "words"), [(0.8, [A]), (1.0, [A, B]), (1.7, [A, B]), (3.0, [A, B, C])]
)
def test_a_group_pays_for_the_words_of_the_groups_before_it(strength, words):
    # A is 1.67 better than B and 2.77 better than C. At 0.8 not even two payments make up for
    # that; at 1.0 they do; at 1.7 the second group says B, and the third pays once for A; at 3.0
    # that is too much as well.
    assert first_words(DiverseBeam(groups=3, strength=strength), beam_size=3) == words


def test_the_penalty_is_part_of_no_score():
    options = DecodeOptions(beam_size=3, n_best=3, length_penalty=1.0)
    candidates = DiverseBeam(strength=3.0).decode(Bigrams(SURE), encoded_images(1), options)[0]
    chances = [0.8 * 0.9, 0.15 * 0.9, 0.05 * 0.9]
    assert [one.log_prob for one in candidates] == pytest.approx(np.log(chances))
    assert [one.score for one in candidates] == pytest.approx(np.log(chances) / 2)


def test_the_end_sign_costs_nothing():
    """All groups end after one word, although the first has ended there as well."""
    options = DecodeOptions(beam_size=3, n_best=9)
    candidates = DiverseBeam(strength=3.0).decode(Bigrams(SURE), encoded_images(1), options)[0]
    assert {one.tokens for one in candidates} == {(A,), (B,), (C,)}


def test_all_groups_of_all_images_are_rows_of_one_step():
    model = Bigrams(SURE)
    DiverseBeam(strength=3.0).decode(model, encoded_images(4), DecodeOptions(beam_size=3))
    assert model.fed == [4, 12]


def test_its_captions_differ_more_than_those_of_beam_search():
    options = DecodeOptions(beam_size=10, n_best=5, max_length=8)
    images = encoded_images(8)
    models = [TableModel(vocabulary_size=40, seed=seed, spread=8.0) for seed in range(5)]

    def distinct(decoder):
        """Return the share of different 2-grams among all of an image's, on average."""
        shares = []
        for candidates in (
            row for model in models for row in decoder.decode(model, images, options)
        ):
            pairs = [pair for one in candidates for pair in pairwise((1, *one.tokens))]
            shares.append(len(set(pairs)) / len(pairs))
        return np.mean(shares)

    assert distinct(DiverseBeam()) > 1.1 * distinct(Beam())


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"strength": -1.0}, {"strength": float("nan")}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DiverseBeam(**wrong)
