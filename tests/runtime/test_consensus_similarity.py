"""Similarities against pycocoevalcap and against definitions written out, and their laws."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider_scorer import CiderScorer

from mrnn_runtime.build import build_references
from mrnn_runtime.errors import UsageError
from mrnn_runtime.reranking.ngrams import every_ngram, known_words, longest_ngrams, sizes
from mrnn_runtime.reranking.similarity import bleu_f1, cider_d, mean_of_largest

KNOWN = 9  # words from here on are unknown to the model that hypotheses come from
WORDS = st.lists(st.integers(4, KNOWN - 1), min_size=1, max_size=12)
SAID = st.lists(
    st.lists(st.lists(st.integers(4, KNOWN + 2), min_size=1, max_size=12), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


def build(said):
    return build_references(
        [f"{i}.jpg" for i in range(len(said))], np.eye(len(said), dtype=np.float32), said, KNOWN
    )


def everything(references):
    return references.captions_of(np.arange(len(references)))


def ngrams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


class Sized(list):
    """A list that claims another length: of the images that frequencies were counted in."""

    def __init__(self, items, length):
        super().__init__(items)
        self.length = length

    def __len__(self):
        return self.length


def pycocoevalcap(hypotheses, said):
    """Score every hypothesis with every caption alone, frequencies being those of ``said``."""

    def text(words):
        return " ".join(map(str, words))

    counter = CiderScorer()
    for group in said:
        counter += ("", [text(caption) for caption in group])
    counter.compute_doc_freq()
    pairs = [(h, caption) for h in hypotheses for group in said for caption in group]
    scorer = CiderScorer()
    for hypothesis, caption in pairs:
        scorer += (text(hypothesis), [text(caption)])
    scorer.document_frequency = counter.document_frequency
    scorer.crefs = Sized(scorer.crefs, len(said))
    return np.reshape(scorer.compute_cider(), (len(hypotheses), -1))


@pytest.mark.slow
@given(SAID, st.lists(WORDS, min_size=1, max_size=4))
def test_cider_d_is_that_of_pycocoevalcap(said, hypotheses):
    references = build(said)
    similarities = cider_d(hypotheses, everything(references), references.frequencies)
    np.testing.assert_allclose(similarities, pycocoevalcap(hypotheses, said), rtol=0, atol=1e-6)


def test_cider_d_is_that_of_pycocoevalcap_on_a_corpus():
    random = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, 61)
    words = [*range(4, KNOWN), *range(KNOWN, KNOWN + 60 - KNOWN + 4)]

    def sentence(last):
        chances = frequencies[:last] / frequencies[:last].sum()
        return random.choice(words[:last], random.integers(1, 15), p=chances).tolist()

    said = [[sentence(60) for _ in range(5)] for _ in range(60)]
    hypotheses = [sentence(KNOWN - 4) for _ in range(10)]
    references = build(said)
    similarities = cider_d(hypotheses, everything(references), references.frequencies)
    np.testing.assert_allclose(similarities, pycocoevalcap(hypotheses, said), rtol=0, atol=1e-6)
    assert similarities.max() > 1


@pytest.mark.slow
@given(SAID, st.lists(WORDS, min_size=1, max_size=4))
def test_bleu_is_the_mean_f1_of_clipped_ngrams(said, hypotheses):
    similarities = bleu_f1(hypotheses, everything(build(said)))
    captions = [caption for group in said for caption in group]
    for row, hypothesis in zip(similarities, hypotheses, strict=True):
        for number, caption in zip(row, captions, strict=True):
            expected = 0.0
            if min(len(hypothesis), len(caption)) >= 4:
                for n in range(1, 5):
                    mine, theirs = ngrams(hypothesis, n), ngrams(caption, n)
                    clipped = (mine & theirs).total()
                    precision, recall = clipped / mine.total(), clipped / theirs.total()
                    if clipped:
                        expected += 2 * precision * recall / (precision + recall) / 4
            assert number == pytest.approx(expected, abs=1e-12)


@given(SAID, WORDS.filter(lambda words: len(words) >= 4))
def test_nothing_is_more_similar_than_the_same_caption(said, hypothesis):
    said = [[hypothesis], *said]
    references = build(said)
    captions = everything(references)
    cider = cider_d([hypothesis], captions, references.frequencies)[0]
    bleu = bleu_f1([hypothesis], captions)[0]
    assert bleu[0] == 1 == bleu.max()
    assert 0 <= cider.min() <= cider.max() <= 10 + 1e-6
    assert cider[0] == pytest.approx(cider.max(), abs=1e-6)


@pytest.mark.slow
@given(SAID, st.lists(WORDS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_neither_order_nor_company_changes_a_bit(said, hypotheses, random):
    references = build(said)
    rows = list(range(len(said)))
    random.shuffle(rows)
    together = references.captions_of(np.arange(len(said)))
    shuffled = references.captions_of(np.array(rows))
    groups = np.repeat(np.arange(len(said)), [len(group) for group in said])
    order = np.concatenate([np.flatnonzero(groups == row) for row in rows])
    for similarity in (lambda h, c: cider_d(h, c, references.frequencies), bleu_f1):
        similarities = similarity(hypotheses, together)
        assert (similarity(hypotheses, shuffled) == similarities[:, order]).all()
        for hypothesis, row in zip(hypotheses, similarities, strict=True):
            assert (similarity([hypothesis], together)[0] == row).all()
        m = random.randint(1, len(groups) + 3)
        alone = [mean_of_largest(row[np.newaxis], m)[0] for row in similarities]
        assert mean_of_largest(similarities, m) == alone
        assert mean_of_largest(similarities[:, order], m) == alone


def test_the_largest_are_averaged_as_far_as_they_go():
    numbers = np.array([[1.0, 4.0, 2.0], [0.0, 0.0, 9.0]])
    assert mean_of_largest(numbers, 1) == [4, 9]
    assert mean_of_largest(numbers, 2) == [3, 4.5]
    assert mean_of_largest(numbers, 99) == [pytest.approx(7 / 3), 3]


@given(SAID)
def test_frequencies_are_counted_per_image(said):
    frequencies = build(said).frequencies
    counts = Counter()
    for group in said:
        counts.update({g for caption in group for n in range(1, 5) for g in ngrams(caption, n)})
    for ngram, count in counts.items():
        (key, *_), _ = longest_ngrams([ngram])
        expected = np.log(len(said)) - np.log(count)
        if max(ngram) < KNOWN:
            assert frequencies.weights(np.array([key]))[0] == pytest.approx(expected)
    never = longest_ngrams([[KNOWN + 9]])[0]
    assert frequencies.weights(never)[0] == np.log(len(said))


@given(st.lists(st.lists(st.integers(0, 65534), max_size=6), max_size=4))
def test_ngrams_are_exact(sentences):
    longest, owner = longest_ngrams(sentences)
    actual = Counter()
    for size, (where, keys) in enumerate(every_ngram(longest), start=1):
        assert (sizes(keys) == size).all()
        for whose, key in zip(owner[where], keys.tolist(), strict=True):
            words = [(key >> 16 * place & 0xFFFF) - 1 for place in range(size)]
            assert key >> 16 * size == 0
            actual[int(whose), tuple(words)] += 1
    expected = Counter()
    for whose, sentence in enumerate(sentences):
        for n in range(1, 5):
            for ngram, count in ngrams(sentence, n).items():
                expected[whose, ngram] += count
    assert actual == expected


def test_ngrams_are_cut_off_before_unknown_words():
    def key(*words):
        return longest_ngrams([words])[0][0]

    full = np.array([key(4, 5, 6, 7), key(4, 99, 5), key(4, 5, 6, 98), key(99, 4), key(8), key(9)])
    kept = known_words(full, 9)
    assert kept.tolist() == [key(4, 5, 6, 7), key(4), key(4, 5, 6), 0, key(8), 0]


@settings(max_examples=20)
@given(st.integers(65535, 2**40))
def test_more_words_than_numbers_for_them_are_refused(word):
    with pytest.raises(UsageError, match="different words"):
        build([[[4, word]]])
    assert len(build([[[4, 65534]]]).lengths) == 1
