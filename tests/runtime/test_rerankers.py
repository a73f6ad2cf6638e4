"""The built-in rerankers: the paper's formula, options, explanations, and a run end to end."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from mrnn_runtime import Candidate, Captioner, EncodedImages, RerankOptions, UsageError, load
from mrnn_runtime.build import build_references
from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.errors import BundleError
from mrnn_runtime.plugins.builtins import mrnn_rerankers
from mrnn_runtime.reranking.references import References, save_references
from mrnn_runtime.reranking.rerankers import Consensus, consensus_bleu, consensus_cider
from mrnn_runtime.reranking.similarity import bleu_f1, cider_d
from mrnn_runtime.testing import checks_for

COUNT = 40


@pytest.fixture(scope="module")
def references():
    random = np.random.default_rng(0)
    features = np.tanh(random.standard_normal((COUNT, 8))).astype(np.float32)
    said = [
        [random.integers(4, 15, random.integers(1, 9)).tolist() for _ in range(3)]
        for _ in range(COUNT)
    ]
    return build_references([f"{i}.jpg" for i in range(COUNT)], features, said, 12)


@pytest.fixture(scope="module")
def folder(references, tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "references"
    save_references(references, folder, load_bundle(tiny_bundle), source="a test")
    return folder


def candidates(count, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, count)
    return [Candidate(tuple(random.integers(4, 12, n).tolist()), -1.0, -1.0, True) for n in lengths]


def images(count, seed=3):
    features = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return EncodedImages({}, np.tanh(features))


@pytest.mark.parametrize("name", ["cider", "bleu"])
def test_a_score_is_the_mean_of_the_m_largest_similarities_to_the_k_nearest(
    name, references, folder, tiny_bundle
):
    make = {"cider": consensus_cider, "bleu": consensus_bleu}[name]
    reranker = make(load_bundle(tiny_bundle), RerankOptions(k=7, m=5, references=folder))
    by_image = reranker.score(images(3), [candidates(4), candidates(1), candidates(9, seed=1)])
    for feature, row, scores in zip(
        images(3).reference_feature,
        (candidates(4), candidates(1), candidates(9, seed=1)),
        by_image,
        strict=True,
    ):
        ((rows, _),) = references.nearest(feature[np.newaxis], 7)
        captions = references.captions_of(rows)
        assert len(captions) == 21
        for candidate, score in zip(row, scores, strict=True):
            similarities = (
                cider_d([candidate.tokens], captions, references.frequencies)
                if name == "cider"
                else bleu_f1([candidate.tokens], captions)
            )
            assert score == pytest.approx(np.mean(sorted(similarities[0])[-5:]), rel=1e-12)


@pytest.mark.parametrize("make", [consensus_cider, consensus_bleu])
def test_batched_equals_single_bit_for_bit(make, folder, tiny_bundle):
    reranker = make(load_bundle(tiny_bundle), RerankOptions(k=7, m=5, references=folder))
    batch, rows = images(20), [candidates(5, seed) for seed in range(20)]
    together = reranker.score(batch, rows)
    for i, row in enumerate(rows):
        one = batch.take(np.array([i]))
        assert reranker.score(one, [row]) == [together[i]]
        assert reranker.score(one, [row[2:]]) == [together[i][2:]]
        scores, neighbours = reranker.explain(batch, rows)
        assert reranker.explain(one, [row]) == ([together[i]], [neighbours[i]])
        assert scores == together


def test_the_defaults_are_those_of_the_paper(folder, tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    for make, m in ((consensus_cider, 125), (consensus_bleu, 175)):
        by_default = make(bundle, RerankOptions(references=folder))
        given = make(bundle, RerankOptions(k=60, m=m, references=folder))
        assert by_default.score(images(2), [candidates(3)] * 2) == (
            given.score(images(2), [candidates(3)] * 2)
        )


def test_the_neighbours_that_vote_are_named_nearest_first(references, folder, tiny_bundle):
    options = RerankOptions(k=5, references=folder)
    reranker = consensus_cider(load_bundle(tiny_bundle), options)
    _, voters = reranker.explain(images(2), [candidates(1)] * 2)
    for neighbours, (rows, distances) in zip(
        voters, references.nearest(images(2).reference_feature, 5), strict=True
    ):
        assert [one.image for one in neighbours] == [f"{row}.jpg" for row in rows]
        assert [one.distance for one in neighbours] == distances.tolist() == sorted(distances)


def test_a_photo_of_the_references_can_be_left_out(folder, tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    features = np.tanh(np.random.default_rng(0).standard_normal((COUNT, 8))).astype(np.float32)
    known = EncodedImages({}, features[:3])
    rows = [candidates(1)] * 3
    options = RerankOptions(k=4, references=folder)
    _, with_itself = consensus_cider(bundle, options).explain(known, rows)
    assert [(row[0].image, row[0].distance) for row in with_itself] == [
        ("0.jpg", 0),
        ("1.jpg", 0),
        ("2.jpg", 0),
    ]
    options = RerankOptions(k=4, references=folder, leave_one_out=True)
    _, without = consensus_cider(bundle, options).explain(known, rows)
    assert [row[:3] for row in without] == [row[1:] for row in with_itself]
    assert all(len(row) == 4 for row in without)


def test_more_than_there_is_is_used_as_far_as_it_goes_and_said(references, caplog):
    def cider(hypotheses, captions):
        return cider_d(hypotheses, captions, references.frequencies)

    everything = Consensus(references, cider, k=COUNT, m=COUNT * 3)
    assert not caplog.records
    expected = everything.score(images(2), [candidates(3)] * 2)
    assert not caplog.records
    greedy = Consensus(references, cider, k=1000, m=1000)
    assert "only 40 reference photos, fewer than --neighbours 1000" in caplog.text
    for _ in range(3):
        assert greedy.score(images(2), [candidates(3)] * 2) == expected
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 2
    assert "nearest reference photos have only 120 captions, fewer than --votes 1000" in said[1]


def test_without_any_neighbour_nobody_is_preferred():
    lonely = build_references(["a"], np.ones((1, 8), np.float32), [[[4, 5]]], 12)
    reranker = Consensus(lonely, bleu_f1, k=1, m=1, leave_one_out=True)
    photo = EncodedImages({}, np.ones((1, 8), np.float32))
    assert reranker.score(photo, [candidates(3)]) == [[0.0, 0.0, 0.0]]
    assert reranker.explain(photo, [candidates(3)]) == ([[0.0, 0.0, 0.0]], [[]])


def test_a_caption_that_everybody_says_wins():
    said = [[[4, 5, 6, 7, 8]] * 2, [[4, 5, 6, 7, 8]], [[9, 10, 11, 9, 10]], [[4]]]
    features = np.eye(4, 8, dtype=np.float32)
    references = build_references(list("abcd"), features, said, 12)
    rows = [[Candidate(words, -1.0, -1.0, True) for words in ((9, 10, 11), (4, 5, 6, 7), (11,))]]
    photo = EncodedImages({}, features[:1] * 0.9 + features[1:2] * 0.8)
    for similarity in (lambda h, c: cider_d(h, c, references.frequencies), bleu_f1):
        (scores,) = Consensus(references, similarity, k=3, m=2).score(photo, rows)
        assert scores.index(max(scores)) == 1


@pytest.fixture(scope="module")
def captioner(tiny_bundle):
    return load(tiny_bundle, provider="cpu", threads=1)


def rerank(captioner, name, *, options=None, of):
    (scores,) = captioner.rerank(images(1), [of], reranker=name, options=options)
    return scores


def test_likelihood_by_caption_and_by_word(captioner):
    row = [
        Candidate((4, 5, 6), -4.0, -1.0, True),
        Candidate((4,), -3.0, -2.0, True),
        Candidate((4, 5, 6, 7), -6.0, -3.0, False),
    ]
    assert rerank(captioner, "log-prob", of=row) == [-4.0, -3.0, -6.0]
    assert rerank(captioner, "length-normalised", of=row) == [-1.0, -1.5, -1.5]


def test_options_that_are_not_given_are_the_bundles_for_that_reranker(captioner, folder):
    def scores(options, **recorded):
        bundle = dataclasses.replace(captioner.bundle, rerank_options=recorded)
        other = Captioner(bundle, captioner.encoder, captioner.model, captioner.vocabulary)
        options = dataclasses.replace(options, references=folder)
        return rerank(other, "consensus-cider", options=options, of=candidates(5))

    few = scores(RerankOptions(k=3, m=2))
    assert few != scores(RerankOptions())
    assert few == scores(RerankOptions(), **{"consensus-cider": RerankOptions(k=3, m=2)})
    assert few == scores(RerankOptions(m=2), **{"consensus-cider": RerankOptions(k=3, m=9)})
    assert scores(RerankOptions()) == (
        scores(RerankOptions(), **{"consensus-bleu": RerankOptions(k=3, m=2)})
    )


def test_numbers_that_nobody_asked_for_are_no_reason_to_warn(captioner, folder, caplog):
    many = RerankOptions(k=1000, m=1000)
    recorded = dataclasses.replace(captioner.bundle, rerank_options={"consensus-cider": many})
    for bundle, options, warnings in (
        (captioner.bundle, RerankOptions(), 0),
        (recorded, many, 0),
        (captioner.bundle, many, 2),
    ):
        caplog.clear()
        options = dataclasses.replace(options, references=folder)
        consensus_cider(bundle, options).score(images(1), [candidates(3)])
        assert len(caplog.records) == warnings


@pytest.mark.parametrize("wrong", [{"k": 0}, {"m": -1}, {"k": 1.5}, {"m": True}])
def test_options_that_make_no_sense(wrong):
    with pytest.raises(UsageError, match=r"must be a whole number in 1\.\.100000"):
        RerankOptions(**wrong)


def test_captions_are_reranked_and_explained(captioner, folder, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    for i, photo in enumerate(pixels):
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
    options = RerankOptions(k=5, m=4, references=folder)
    plain = list(captioner.caption(tmp_path, n_best=4, beam_size=4))
    reranked = list(
        captioner.caption(
            tmp_path,
            n_best=4,
            beam_size=4,
            reranker="consensus-cider",
            rerank=options,
            explain=True,
        )
    )
    for before, after in zip(plain, reranked, strict=True):
        assert (before.reranker, after.reranker) == (None, "consensus-cider")
        scores = [one.rerank_score for one in after.candidates]
        assert scores == sorted(scores, reverse=True)
        assert [one.rank for one in before.candidates] == [1, 2, 3, 4]
        by_rank = sorted(after.candidates, key=lambda one: one.rank)
        assert tuple(dataclasses.replace(one, rerank_score=None) for one in by_rank) == (
            before.candidates
        )
        assert after.text == after.candidates[0].caption
        assert before.neighbours == ()
        assert len(after.neighbours) == 5
    (first, *_) = captioner.caption(
        tmp_path, batch_size=1, reranker="consensus-cider", rerank=options
    )
    assert (first.text, first.neighbours) == (reranked[0].text, ())
    (unexplained, *_) = captioner.caption(tmp_path, reranker="log-prob", explain=True)
    assert unexplained.neighbours == ()


def test_a_model_without_references_is_found_out_at_once(captioner, tmp_path):
    with pytest.raises(BundleError, match="has no references"):
        captioner.caption(tmp_path, reranker="consensus-cider")


@pytest.fixture(scope="module")
def referenced_bundle(tiny_bundle, folder, tmp_path_factory):
    import shutil

    from mrnn_runtime.bundle.loading import read_manifest, write_manifest

    bundle = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("whole") / "bundle")
    shutil.copytree(folder, bundle / "references")
    write_manifest(bundle, read_manifest(bundle))
    return bundle


@pytest.mark.parametrize("component", mrnn_rerankers(), ids=lambda component: component.name)
def test_they_keep_the_contract(component, referenced_bundle):
    for check in checks_for(component, "rerankers", bundle=referenced_bundle):
        check.run()


def test_an_explanation_searches_for_neighbours_once(captioner, folder, photos, monkeypatch):
    calls = []
    nearest = References.nearest
    monkeypatch.setattr(References, "nearest", lambda *a, **k: calls.append(1) or nearest(*a, **k))
    search = captioner.search(
        None, "consensus-cider", rerank=RerankOptions(k=3, references=folder), explain=True
    )
    encoded = captioner.encode(photos / "a.png")
    ((_, neighbours),) = search.run(captioner.model, encoded, captioner.vocabulary.decode)
    assert len(neighbours) == 3
    assert len(calls) == 1


def test_references_are_opened_once_for_all_calls(captioner, folder, photos, tmp_path):
    own = shutil.copytree(folder, tmp_path / "references")
    options = RerankOptions(k=3, references=own)
    first, second = (
        list(captioner.caption(photos, reranker="consensus-cider", rerank=options))
        for _ in range(2)
    )
    (own / "ngrams.npy").unlink()
    assert (
        first
        == second
        == list(captioner.caption(photos, reranker="consensus-cider", rerank=options))
    )
