"""The measures on captions whose figures are known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrnn_exporters import metrics
from mrnn_exporters.metrics import measure
from mrnn_runtime.errors import MrnnError, UsageError

needs_java = pytest.mark.skipif(metrics.java() is None, reason="METEOR and PTB are Java programs")

REFERENCES = [
    ["A black dog runs on the grass .", "The dog is running ."],
    ["Two men sit on a bench in the park .", "Men are sitting outside ."],
    ["A girl in a red dress jumps over a fence .", "A girl jumps ."],
]
BLEU = [f"BLEU-{n}" for n in range(1, 5)]


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_identical_captions_are_perfect_whatever_their_case_and_punctuation() -> None:
    captions = [group[0].upper().replace(" .", "!") for group in REFERENCES]
    measured = measure(REFERENCES, captions, tokeniser="plain").values
    assert [measured[name] for name in BLEU] == pytest.approx([1.0] * 4)
    assert measured["ROUGE-L"] == pytest.approx(1.0)


def test_bleu_by_hand() -> None:
    # Six of eight words, three of seven pairs, as long as the reference: no brevity penalty.
    measured = measure(
        [["a man in a hat rides a horse"]],
        ["a man in hat rides the brown horse"],
        tokeniser="plain",
    )
    assert measured.values["BLEU-1"] == pytest.approx(6 / 8)
    assert measured.values["BLEU-2"] == pytest.approx((6 / 8 * 3 / 7) ** 0.5)


def test_rouge_by_hand() -> None:
    # Longest common subsequence 2, precision 2/4, recall 2/3, beta 1.2.
    measured = measure([["dogs run fast"]], ["dogs that run away"], tokeniser="plain").values
    precision, recall, beta = 2 / 4, 2 / 3, 1.2**2
    wanted = (1 + beta) * precision * recall / (recall + beta * precision)
    assert measured["ROUGE-L"] == pytest.approx(wanted)


def test_captions_of_the_wrong_photos_are_worse() -> None:
    right = measure(REFERENCES, [g[1] for g in REFERENCES], tokeniser="plain").values
    wrong = measure(
        REFERENCES, [g[1] for g in REFERENCES[1:] + REFERENCES[:1]], tokeniser="plain"
    ).values
    assert all(right[name] > wrong[name] for name in ("BLEU-1", "ROUGE-L", "CIDEr"))


@pytest.mark.slow
@needs_java
def test_with_java_there_is_meteor_and_the_real_tokeniser(capfd) -> None:
    measured = measure(REFERENCES, [g[0] for g in REFERENCES])
    assert list(measured.values) == [*BLEU, "METEOR", "ROUGE-L", "CIDEr"]
    assert measured.values["METEOR"] == pytest.approx(1.0)
    assert measured.tokeniser == "ptb"
    assert capfd.readouterr() == ("", "")


@needs_java
def test_ptb_is_pycocoevalcaps_tokeniser() -> None:
    from pycocoevalcap.tokenizer import ptbtokenizer

    sentences = ["A dog's (big) caf\xe9 .", "", 'Can\'t -- "stop" ?\n Yes; no', "#1 & U.S."]
    if not os.access(Path(ptbtokenizer.__file__).parent, os.W_OK):
        pytest.skip("theirs writes into the installed package, which is not ours here")
    theirs = ptbtokenizer.PTBTokenizer().tokenize(
        {i: [{"caption": s}] for i, s in enumerate(sentences)}
    )
    assert metrics.ptb(sentences) == [theirs[i][0] for i in range(len(sentences))]


def test_without_java_the_row_says_plain(no_java) -> None:
    measured = measure(REFERENCES, [g[0] for g in REFERENCES])
    assert measured.tokeniser == "plain"
    assert "METEOR" not in measured.values
    with pytest.raises(UsageError, match="needs Java"):
        measure(REFERENCES, [g[0] for g in REFERENCES], tokeniser="ptb")


def test_a_java_that_fails_is_one_error(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(MrnnError, match="out of luck"):
        metrics.ptb(["a dog"])
    with pytest.raises(MrnnError, match="METEOR"):
        metrics._meteor({0: ["a dog"]}, {0: ["a dog"]})


def test_nothing_to_measure_and_unknown_tokenisers() -> None:
    with pytest.raises(UsageError, match="no caption"):
        measure([], [])
    with pytest.raises(UsageError, match="unknown tokeniser"):
        measure(REFERENCES, ["a", "b", "c"], tokeniser="bert")
