"""Laws that hold for every model, image and set of options: hypothesis looks for exceptions.

What the decoders compute for a whole batch with arrays is computed here once more for one image
with plain Python, from the definitions alone.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.decoding.greedy import Greedy
from mrnn_runtime.decoding.sample import Sample
from mrnn_runtime.testing import TableModel, encoded_images
from mrnn_runtime.types import Candidate, DecodeOptions

pytestmark = pytest.mark.slow

EOS = 2
FIRST_WORD = 4  # pad, bos, eos and unk come before it
DECODERS = (Greedy(), Beam(), Sample())


@st.composite
def cases(draw):
    """A model, up to four images (the same one twice, perhaps) and options that fit together."""
    words = draw(st.integers(1, 6))
    vocabulary = range(FIRST_WORD, FIRST_WORD + words)
    model = TableModel(
        vocabulary_size=FIRST_WORD + words,
        seed=draw(st.integers(0, 1000)),
        history=draw(st.booleans()),
        spread=draw(st.sampled_from([0.5, 4.0, 12.0])),
        levels=draw(st.sampled_from([0, 2])),
        end_bias=draw(st.sampled_from([-3.0, 0.0, 3.0])),
    )
    images = encoded_images(3, seed=draw(st.integers(0, 1000)))
    images = images.take(np.array(draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))))
    max_length = draw(st.integers(1, 4 if words <= 4 else 3))
    spoken = draw(st.sampled_from(vocabulary))
    bannable = [*range(FIRST_WORD), *vocabulary]
    banned = draw(st.lists(st.sampled_from(bannable), max_size=2)) if draw(st.booleans()) else []
    banned = [token for token in banned if token != spoken]
    size = draw(st.integers(0, 3))
    prefix = draw(st.lists(st.sampled_from(vocabulary), max_size=max_length))
    if draw(st.booleans()) or set(prefix) & set(banned) or repeats(prefix, size):
        prefix = []
    options = DecodeOptions(
        beam_size=draw(st.integers(1, 6)),
        n_best=draw(st.integers(1, 6)),
        min_length=draw(st.integers(1, max_length)),
        max_length=max_length,
        length_penalty=draw(st.sampled_from([0.0, 0.7, 1.0, 3.0])),
        exact=draw(st.booleans()),
        no_repeat_ngram=size,
        banned=tuple(banned),
        prefix=tuple(prefix),
        temperature=draw(st.sampled_from([0.3, 1.0, 3.0])),
        top_k=draw(st.integers(0, 3)),
        top_p=draw(st.sampled_from([0.5, 0.9, 1.0])),
        seed=draw(st.integers(0, 3)),
    )
    return model, images, options


def repeats(words, size):
    """Whether some n-gram of that size stands twice in the words."""
    ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return size > 0 and len(set(ngrams)) < len(ngrams)


class Oracle:
    """What one image's model says after any words, asked row by row, and what the options allow."""

    def __init__(self, model, images, index, options):
        self.model = model
        self.options = options
        self.start = model.start(images.take(np.array([index])))
        self.known = {}

    def log_probs(self, words):
        return self._ask(words)[0]

    def _ask(self, words):
        if words not in self.known:
            state = self._ask(words[:-1])[1] if words else self.start
            token = words[-1] if words else self.model.tokens.bos
            scores, state = self.model.step(np.array([token]), state, 0, full=True)
            self.known[words] = scores.log_probs[0].tolist(), state
        return self.known[words]

    def total(self, words, *, finished):
        tokens = (*words, EOS) if finished else words
        total = 0.0
        for i, token in enumerate(tokens):
            total += self.log_probs(tokens[:i])[token]
        return total

    def allowed(self, words):
        options = self.options
        ids = {EOS, *range(FIRST_WORD, self.model.vocabulary_size)} - set(options.banned)
        if len(words) < options.min_length:
            ids -= {EOS}
        return {i for i in ids if i == EOS or not repeats((*words, i), options.no_repeat_ngram)}

    def candidate(self, words, *, finished):
        total = self.total(words, finished=finished)
        score = total / float(len(words) + finished) ** self.options.length_penalty
        return Candidate(words, total, score, finished)


def order(candidate):
    return (not candidate.finished, -candidate.score, len(candidate.tokens), candidate.tokens)


def every_caption(oracle, words):
    """All captions that start with ``words``, finished if they can be."""
    allowed = oracle.allowed(words)
    full = len(words) == oracle.options.max_length
    if full or EOS in allowed or not allowed:
        yield oracle.candidate(words, finished=EOS in allowed)
    if not full:
        for word in allowed - {EOS}:
            yield from every_caption(oracle, (*words, word))


def beam_by_the_book(oracle):
    """Beam search of one image as the docstring of Beam defines it.

    Returns the n best and the number of steps after which they are certain; the search itself goes
    on.
    """
    options = oracle.options
    live, done, steps, certain = [options.prefix], [], 0, None
    while True:
        full = len(live[0]) == options.max_length
        ranked = sorted(
            (-(oracle.total(words, finished=False) + gain), place, -gain, token)
            for place, words in enumerate(live)
            for token, gain in enumerate(oracle.log_probs(words))
            if token in oracle.allowed(words)
        )
        ended = {place for _, place, _, token in ranked[: options.beam_size] if token == EOS}
        stuck = {place for place, words in enumerate(live) if not oracle.allowed(words)}
        cut = set(range(len(live))) - ended if full else stuck
        done += [oracle.candidate(live[place], finished=True) for place in ended]
        done += [oracle.candidate(live[place], finished=False) for place in cut]
        steps += 1
        go_on = [rank for rank in ranked if rank[3] != EOS][: options.beam_size]
        finished = sorted((c for c in done if c.finished), key=order)
        if full or not go_on:
            break
        best_live = -go_on[0][0]
        is_crowded = sum(c.log_prob >= best_live for c in finished) >= options.beam_size
        if is_crowded and not options.exact:
            break
        best_end = best_live / float(options.max_length + 1) ** options.length_penalty
        if sum(c.score >= best_end for c in finished) >= options.n_best:
            certain = certain or steps
        live = [(*live[place], token) for _, place, _, token in go_on]
    return sorted(done, key=order)[: options.n_best], certain or steps


class Recorder:
    """A step model that notes how many rows each step fed, and what it was asked for."""

    def __init__(self, model):
        self.model = model
        self.tokens = model.tokens
        self.vocabulary_size = model.vocabulary_size
        self.start = model.start
        self.rows = []

    def step(self, tokens, state, top_k, *, full=False):
        self.rows.append(len(tokens))
        return self.model.step(tokens, state, top_k, full=full)


def rows_fed(decoder, model, images, options):
    recorder = Recorder(model)
    decoder.decode(recorder, images, options)
    return recorder.rows


@given(cases())
@settings(max_examples=150, deadline=None)
def test_a_beam_with_room_for_all_finds_exactly_the_best_captions(case):
    model, images, options = case
    words = model.vocabulary_size - FIRST_WORD
    room = sum(
        words**length for length in range(options.max_length + 2)
    )  # all that can end or go on
    assume(room <= 1000)
    options = replace(options, beam_size=room)
    decoded = Beam().decode(model, images, options)
    for index, candidates in enumerate(decoded):
        oracle = Oracle(model, images, index, options)
        best = sorted(every_caption(oracle, options.prefix), key=order)[: options.n_best]
        assert candidates == best


@given(cases())
@settings(max_examples=200, deadline=None)
def test_a_narrow_beam_finds_what_the_book_finds_and_stops_when_that_is_certain(case):
    model, images, options = case
    prefix_steps = len(options.prefix)
    for index in range(len(images)):
        one = images.take(np.array([index]))
        best, steps = beam_by_the_book(Oracle(model, images, index, options))
        assert Beam().decode(model, one, options) == [best]
        assert len(rows_fed(Beam(), model, one, options)) == prefix_steps + steps


@given(cases())
@settings(max_examples=200, deadline=None)
def test_greedy_is_a_beam_of_one(case):
    model, images, options = case
    assert Greedy().decode(model, images, options) == Beam().decode(
        model, images, replace(options, beam_size=1, exact=False)
    )


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: type(decoder).__name__)
class TestEveryDecoder:
    @given(case=cases())
    @settings(max_examples=100, deadline=None)
    def test_a_batch_is_the_sum_of_its_images(self, decoder, case):
        model, images, options = case
        alone = [images.take(np.array([i])) for i in range(len(images))]
        together = decoder.decode(model, images, options)
        assert together == [decoder.decode(model, one, options)[0] for one in alone]
        assert together == decoder.decode(model, images, options)

    @given(case=cases())
    @settings(max_examples=100, deadline=None)
    def test_finished_images_take_no_rows(self, decoder, case):
        model, images, options = case
        steps = np.zeros(options.max_length + 1, dtype=int)
        for i in range(len(images)):
            rows = rows_fed(decoder, model, images.take(np.array([i])), options)
            steps[: len(rows)] += rows
        assert rows_fed(decoder, model, images, options) == steps[steps > 0].tolist()

    @given(case=cases())
    @settings(max_examples=100, deadline=None)
    def test_candidates_keep_every_promise(self, decoder, case):
        model, images, options = case
        for index, candidates in enumerate(decoder.decode(model, images, options)):
            oracle = Oracle(model, images, index, options)
            assert 1 <= len(candidates) <= options.n_best
            assert candidates == sorted(candidates, key=order)
            for candidate in candidates:
                words = candidate.tokens
                prefix = options.prefix
                assert words[: len(prefix)] == prefix
                for i in range(len(prefix), len(words)):
                    assert words[i] in oracle.allowed(words[:i]) - {EOS}
                if candidate.finished:
                    assert EOS in oracle.allowed(words)
                else:
                    assert len(words) == options.max_length or not oracle.allowed(words)
                assert 1 <= len(words) <= options.max_length
                assert candidate == oracle.candidate(words, finished=candidate.finished)
                assert np.isfinite([candidate.log_prob, candidate.score]).all()
