"""``mrnn evaluate --task retrieval``: the ranks, the report, a run that was stopped."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mrnn_exporters import plugin, retrieval
from mrnn_exporters.retrieval import image_ranks, measures, run, sentence_ranks
from mrnn_exporters.scoring import log_probs
from mrnn_runtime import load
from mrnn_runtime.errors import MrnnError, UsageError
from mrnn_runtime.images import read_image
from mrnn_runtime.retrieval.scorer import Scorer

if TYPE_CHECKING:
    from pathlib import Path

SAID = [
    ["A dog runs on grass .", "the man's hat"],
    ["A man .", "dog", "..."],
    ["Grass on a hat 's dog"],
    ["A man runs"],
]


@pytest.fixture
def corpus(tmp_path: Path, make_photos) -> Path:
    paths = make_photos(tmp_path / "corpus", 10)
    records = [
        {"file": path.name, "captions": SAID[i % 4], "split": "test" if i < 4 else "train"}
        for i, path in enumerate(paths)
    ]
    (tmp_path / "corpus" / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path / "corpus"


@st.composite
def questions(draw):
    """Scores with ties, and for each sentence its image."""
    images, sentences = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    of = draw(st.lists(st.integers(0, images - 1), min_size=sentences, max_size=sentences))
    numbers = st.lists(st.integers(0, 4), min_size=sentences, max_size=sentences)
    scores = draw(st.lists(numbers, min_size=images, max_size=images))
    return np.array(scores, np.float64), np.array(of)


@given(questions())
def test_ranks_are_places_in_the_sorted_list(question) -> None:
    scores, of = question
    expected = []
    for image in sorted(set(of.tolist())):
        # Own sentences last among equals: nobody gains by a tie.
        order = sorted(range(len(of)), key=lambda s: (-scores[image, s], of[s] == image))
        own = [place for place, s in enumerate(order) if of[s] == image]
        expected.append(1 + own[0])
    assert sentence_ranks(scores, of).tolist() == expected
    expected = []
    for sentence, image in enumerate(of.tolist()):
        order = sorted(range(len(scores)), key=lambda i: (-scores[i, sentence], i == image))
        expected.append(1 + order.index(image))
    assert image_ranks(scores, of).tolist() == expected


def test_measures() -> None:
    report = measures(np.array([1, 2, 6, 11]))
    assert report == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "Med r": 4.0}


def test_the_report_is_that_of_scores_pair_by_pair(
    tiny_bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    result = run(
        tiny_bundle, dataset="folder", root=corpus, cache=tmp_path, background=4, provider="cpu"
    )
    captioner = load(tiny_bundle, provider="cpu")
    pixels = [read_image(corpus / f"{i}.png", captioner.bundle.preprocess) for i in range(10)]
    images = captioner.encoder.encode(np.stack(pixels))
    sentences = [
        (i, ids) for i in range(4) for text in SAID[i] if (ids := captioner.vocabulary.encode(text))
    ]
    sample = sorted(4 + np.random.default_rng(0).permutation(6)[:4])
    table = np.array(
        [log_probs(captioner.model, images, [(i, ids) for _, ids in sentences]) for i in range(10)]
    )
    prior = np.log(np.exp(table[sample]).mean(axis=0))
    of = np.array([i for i, _ in sentences])
    assert result.sentence_retrieval == measures(sentence_ranks(table[:4] - prior, of))
    assert result.image_retrieval == measures(image_ranks(table[:4], of))
    assert (result.images, result.sentences, result.background, result.seed) == (4, 6, 4, 0)
    assert not list(tmp_path.glob("retrieval/*/*.*")), "unfinished work is gone"


def test_a_run_that_was_stopped_goes_on(
    tiny_bundle: Path, corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK", 1)

    def report():
        return run(
            tiny_bundle, dataset="folder", root=corpus, cache=tmp_path, background=2, provider="cpu"
        )

    whole, real, calls = report(), Scorer.log_probs, []

    def stop_at(limit):
        def log_probs(self, images):
            calls.append(len(images))
            if len(calls) == limit:
                raise KeyboardInterrupt
            return real(self, images)

        calls.clear()
        monkeypatch.setattr(Scorer, "log_probs", log_probs)

    monkeypatch.setattr("mrnn_exporters.progress.cores", lambda: 1)
    stop_at(7)  # two for the background and its key, then the key, then images
    with pytest.raises(KeyboardInterrupt):
        report()
    kept = list(tmp_path.glob("retrieval/*/*.npy"))
    assert 0 < len(kept) < 4
    assert len({file.parent for file in kept}) == 1
    stop_at(None)
    again = report()
    assert len(calls) < 8, "what was done is not done again"
    assert again.sentence_retrieval == whole.sentence_retrieval
    assert again.image_retrieval == whole.image_retrieval


def test_two_runs_of_one_model_wait_for_each_other(
    tiny_bundle: Path, corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK", 1)
    monkeypatch.setattr("mrnn_exporters.progress.cores", lambda: 1)

    def report(cache: str):
        given = {"dataset": "folder", "root": corpus, "background": 6, "provider": "cpu"}
        return run(tiny_bundle, cache=tmp_path / cache, **given)

    alone = report("alone")
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(report, "two") for _ in "ab"]:
                assert one.result().image_retrieval == alone.image_retrieval


def test_a_cache_that_cannot_be_written(tiny_bundle: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MrnnError, match="cannot be written"):
        run(tiny_bundle, dataset="folder", root=corpus, cache=tmp_path / "file", provider="cpu")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_split_without_photos_is_named(
    tiny_bundle: Path, corpus: Path, tmp_path: Path, split: str
) -> None:
    with pytest.raises(UsageError, match=f"folder/all has no photo in split {split}"):
        run(tiny_bundle, dataset="folder/all", root=corpus, cache=tmp_path, split=split)


def evaluate(*args: object):
    app = typer.Typer()
    plugin.mrnn_commands(app)
    return CliRunner().invoke(app, ["evaluate", *map(str, args)])


def test_the_command(tiny_bundle: Path, corpus: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    given = ["--dataset", "folder", "--root", corpus, "--task", "retrieval", "--background", 3]
    result = evaluate(tiny_bundle, *given, "--json", tmp_path / "r.json", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    assert "photo to sentence" in result.output
    assert (tmp_path / "home" / "mrnn" / "retrieval").is_dir()
    record = json.loads((tmp_path / "r.json").read_text())
    expected = run(
        tiny_bundle, dataset="folder", root=corpus, cache=tmp_path, background=3, provider="cpu"
    )
    for name in ("sentence_retrieval", "image_retrieval", "background", "model", "versions"):
        assert record[name] == asdict(expected)[name]
    assert record["command"].endswith("--split test --task retrieval --background 3")
    assert str(corpus) not in json.dumps(record)


@pytest.mark.parametrize(
    ("task", "option", "words"),
    [
        ("retrieval", ["--beam-size", 5], "does not know --beam-size"),
        ("retrieval", ["--coco-results", "x"], "does not know --coco-results"),
        ("generation", ["--background", 5], "does not know --background"),
        ("retreival", [], "unknown task 'retreival'"),
    ],
)
def test_options_of_the_other_task(tiny_bundle, corpus, task, option, words) -> None:
    result = evaluate(tiny_bundle, "--dataset", "folder", "--root", corpus, "--task", task, *option)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_numbers_out_of_range(tiny_bundle: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        run(tiny_bundle, dataset="folder", root=corpus, cache=tmp_path, background=0)
