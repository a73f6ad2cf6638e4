from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_runtime.decoding.greedy import Greedy
from mrnn_runtime.decoding.sample import Sample
from mrnn_runtime.testing import TableModel, encoded_images
from mrnn_runtime.types import DecodeOptions

EOS, FIRST_WORD, WORDS = 2, 4, 4
MODEL = TableModel(vocabulary_size=FIRST_WORD + WORDS, spread=2.0)


def keep(chances, options):
    """What may be drawn, by token: temperature, then top_k, then top_p, scaled to 1."""
    ranked = sorted(chances, key=lambda token: (-chances[token], token))
    weights = {token: chances[token] ** (1 / options.temperature) for token in ranked}
    ranked = ranked[: options.top_k or None]
    kept, total = {}, sum(weights[token] for token in ranked)
    for token in ranked:
        if sum(kept.values()) < options.top_p * total:
            kept[token] = weights[token]
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def outcomes(model, image, options):
    """The chance of every caption, keyed by its words and whether it is finished."""
    chances = {}

    def say(words, token, state, chance):
        scores, state = model.step(np.array([token]), state, 0, full=True)
        allowed = [i for i in (EOS, *range(FIRST_WORD, model.vocabulary_size)) if words or i != EOS]
        step = {i: float(np.exp(np.float64(scores.log_probs[0, i]))) for i in allowed}
        for chosen, share in keep(step, options).items():
            if chosen == EOS:
                chances[words, True] = chance * share
            elif len(words) == options.max_length:
                chances[words, False] = chances.get((words, False), 0.0) + chance * share
            else:
                say((*words, chosen), chosen, state, chance * share)

    say((), model.tokens.bos, model.start(image), 1.0)
    return chances


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 2.0},
        {"top_k": 2},
        {"top_p": 0.7},
        {"top_k": 3, "top_p": 0.6, "temperature": 1.5},
    ],
    ids=str,
)
def test_samples_follow_the_distribution(rules):
    """Chi-squared at the 0.999 quantile (Wilson and Hilferty's approximation), the seed fixed."""
    drawn = 20_000
    options = DecodeOptions(n_best=1000, max_length=2, **rules)
    image = encoded_images(1)
    counts = {key: 0 for key in outcomes(MODEL, image, options)}
    for seed in range(drawn // options.n_best):
        for candidate in Sample().decode(MODEL, image, replace(options, seed=seed))[0]:
            counts[candidate.tokens, candidate.finished] += 1  # a KeyError: it has no chance
    expected = {k: drawn * share for k, share in outcomes(MODEL, image, options).items()}
    assert sum(expected.values()) == pytest.approx(drawn)
    likely = [key for key in expected if expected[key] >= 5]
    rare = [key for key in expected if expected[key] < 5]
    pairs = [(counts[key], expected[key]) for key in likely]
    if rare:
        pairs.append((sum(counts[k] for k in rare), sum(expected[k] for k in rare)))
    statistic = sum((seen - due) ** 2 / due for seen, due in pairs)
    freedom = len(pairs) - 1
    assert freedom >= 3
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def test_a_seed_repeats_and_another_differs():
    images = encoded_images(3)
    options = DecodeOptions(n_best=5, seed=7)
    first = Sample().decode(MODEL, images, options)
    assert first == Sample().decode(MODEL, images, options)
    assert first != Sample().decode(MODEL, images, replace(options, seed=8))


def test_images_draw_from_streams_of_their_own():
    """A model that does not look at the image still gives each image its own samples."""

    class Blind(TableModel):
        def start(self, images):
            return super().start(images.take(np.zeros(len(images), dtype=np.int64)))

    one, other = Sample().decode(Blind(), encoded_images(2), DecodeOptions(n_best=5))
    assert one != other


@given(st.permutations(range(4)), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_samples_go_with_the_image_and_not_with_its_place(places, seed):
    images = encoded_images(4)
    options = DecodeOptions(n_best=3, seed=seed)
    at_home = Sample().decode(MODEL, images, options)
    moved = Sample().decode(MODEL, images.take(np.array(places)), options)
    assert moved == [at_home[place] for place in places]


@pytest.mark.parametrize("rules", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 0.01}], ids=str)
def test_a_sample_without_choice_is_greedy(rules):
    model = TableModel(spread=20.0)
    images = encoded_images(5)
    options = DecodeOptions(no_repeat_ngram=2, **rules)
    assert Sample().decode(model, images, options) == Greedy().decode(model, images, options)


def test_top_k_counts_allowed_tokens_only():
    """With the best word banned, top_k 1 takes the best of the rest."""
    image = encoded_images(1)
    [[best]] = Greedy().decode(MODEL, image, DecodeOptions(max_length=1))
    options = DecodeOptions(max_length=1, banned=best.tokens, top_k=1)
    assert Sample().decode(MODEL, image, options) == Greedy().decode(MODEL, image, options)


def test_the_log_probability_is_the_models_own():
    images = encoded_images(1)
    hot = DecodeOptions(n_best=50, temperature=3.0, max_length=2)
    cold = replace(hot, temperature=0.4)
    known = {(c.tokens, c.finished): c for c in Sample().decode(MODEL, images, hot)[0]}
    again = [c for c in Sample().decode(MODEL, images, cold)[0] if (c.tokens, c.finished) in known]
    assert again
    assert all(c == known[c.tokens, c.finished] for c in again)


def test_a_longer_limit_continues_the_same_samples():
    images = encoded_images(6)
    short = Sample().decode(MODEL, images, DecodeOptions(max_length=3))
    long = Sample().decode(MODEL, images, DecodeOptions(max_length=9))
    assert any(not caption[0].finished for caption in short)
    for [cut], [whole] in zip(short, long, strict=True):
        assert whole.tokens[: len(cut.tokens)] == cut.tokens
