"""The reranker ``visual-words``: its formula, and what it is for."""

import math

import numpy as np
import pytest

visual_words = pytest.importorskip("mrnn_visual_words.reranker")

from mrnn_runtime import (  # noqa: E402
    BundleError,
    Candidate,
    EncodedImages,
    RerankOptions,
    load,
    load_bundle,
)
from mrnn_runtime.build import build_references  # noqa: E402
from mrnn_runtime.reranking.references import save_references  # noqa: E402

A, DOG, SNOW, MAN, RUNS = 4, 5, 6, 7, 8
COUNT = 30
FEATURES = np.random.default_rng(0).standard_normal((COUNT, 8)).astype(np.float32)
# The first ten photos are close together; snow is said of half of them, and of one of the others.
FEATURES[:10] = FEATURES[0] + 0.01 * FEATURES[:10]
SAID = [[[A, DOG, RUNS], [A, DOG, SNOW] if i < 5 else [A, DOG]] for i in range(10)]
SAID += [[[A, MAN, A, MAN]] + [[A, SNOW]] * (i == 10) + [[A, 13, A]] for i in range(10, COUNT)]
PHOTO = EncodedImages({}, FEATURES[:1] * np.float32(1.001))


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "references"
    names = [f"{i}.jpg" for i in range(COUNT)]
    references = build_references(names, FEATURES, SAID, bundle.vocabulary_size)
    save_references(references, folder, bundle, source="a test")
    return folder


@pytest.fixture
def score(bundle, folder):
    """Score captions of the photo, all equally likely."""

    def run(*captions, photo=PHOTO, **options):
        reranker = visual_words.VisualWords(bundle, RerankOptions(references=folder, **options))
        row = [Candidate(tuple(caption), -7.0, -7.0, True) for caption in captions]
        (scores,) = reranker.score(photo, [row])
        return scores

    return run


def worth(votes, share, k):
    return math.log((votes + 1) / (k * share + 1))


def test_the_score_is_the_formula(score):
    votes = {A: 10, DOG: 10, SNOW: 5, MAN: 0, RUNS: 10, 9: 0}
    # What no reference says counts as if one did.
    shares = {A: 1, DOG: 10 / 30, SNOW: 6 / 30, MAN: 20 / 30, RUNS: 10 / 30, 9: 1 / 30}
    captions = [(A,), (A, DOG), (DOG, SNOW, SNOW), (A, MAN, RUNS), (9,)]
    expected = [
        -7.0 + sum(worth(votes[word], shares[word], 10) for word in set(caption))
        for caption in captions
    ]
    assert score(*captions, k=10) == pytest.approx(expected)


def test_words_that_the_neighbours_share_win_and_common_ones_count_for_nothing(score):
    base, dog, snow, man = score((A,), (A, DOG), (A, SNOW), (A, MAN))
    assert base == -7.0
    assert dog > snow > base > man


def test_the_order_of_words_and_of_candidates_is_nothing(score):
    one, other = score((A, DOG, RUNS), (RUNS, A, DOG))
    assert one == other
    assert score((A, DOG), (A, MAN)) == score((A, MAN), (A, DOG))[::-1]


def test_twenty_neighbours_vote_where_nothing_is_said(score):
    assert score((A, DOG)) == score((A, DOG), k=20) != score((A, DOG), k=10)
    assert score((A, DOG), k=COUNT) == score((A, DOG), k=1000)


def test_the_photo_itself_can_be_left_out(score):
    photo = EncodedImages({}, FEATURES[10:11])
    (with_itself,) = score((SNOW,), photo=photo, k=COUNT)
    (without,) = score((SNOW,), photo=photo, k=COUNT, leave_one_out=True)
    assert with_itself == pytest.approx(-7.0 + worth(6, 6 / 30, COUNT))
    assert without == pytest.approx(-7.0 + worth(5, 6 / 30, COUNT - 1))


def test_a_model_without_references_is_an_error(bundle):
    with pytest.raises(BundleError, match="has no references"):
        visual_words.VisualWords(bundle, RerankOptions())


def test_captions_are_chosen_by_it(tiny_bundle, folder, tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 16 16 255\n" + bytes(range(256)) * 3)
    options = RerankOptions(references=folder)
    (caption,) = load(tiny_bundle, provider="cpu").caption(
        tmp_path, beam_size=5, n_best=5, reranker="visual-words", rerank=options
    )
    scores = [one.rerank_score for one in caption.candidates]
    assert caption.reranker == "visual-words"
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
