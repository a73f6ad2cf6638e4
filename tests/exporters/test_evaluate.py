"""``mrnn evaluate`` on the tiny bundle: perplexity against numpy, the report, the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mrnn_exporters import plugin, references
from mrnn_exporters.evaluate import SearchOptions, run
from mrnn_exporters.metrics import measure
from mrnn_exporters.scoring import log_probs, measure_perplexity
from mrnn_runtime import Captioner, load
from mrnn_runtime.errors import UsageError
from mrnn_runtime.images import read_image
from mrnn_runtime.testing import TableModel, encoded_images

CAPTIONS = [
    ["A dog runs on grass .", "The man's hat", "a a a a a a a a"],
    ["A man .", "dog"],
    ["Grass on a hat 's dog", "..."],
]


@pytest.fixture
def corpus(tmp_path: Path, make_photos) -> Path:
    paths = make_photos(tmp_path / "corpus", len(CAPTIONS))
    records = [
        {"file": path.name, "captions": said, "split": "test"}
        for path, said in zip(paths, CAPTIONS, strict=True)
    ]
    (tmp_path / "corpus" / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path / "corpus"


def plain_run(bundle: Path, corpus: Path, **options):
    return run(bundle, dataset="folder", root=corpus, tokeniser="plain", provider="cpu", **options)


class Transcript:
    """The tiny bundle's two graphs, written out in numpy."""

    def __init__(self, bundle: Path) -> None:
        self.w = {
            tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64)
            for name in ("encoder.onnx", "cell.onnx")
            for tensor in onnx.load(bundle / name).graph.initializer
        }

    def log_prob(self, image: np.ndarray, words: list[int]) -> float:
        w = self.w
        feature = np.tanh((image.reshape(-1) - w["half"]) @ w["w_feature"])
        state, total = np.zeros(5), 0.0
        for token, following in zip([1, *words], [*words, 2], strict=True):
            state = np.maximum(w["word_table"][token] + state @ w["u_state"], 0)
            hidden = w["multimodal_table"][token] + state @ w["v_state"] + feature @ w["v_image"]
            logits = np.tanh(hidden) @ w["v_output"] + w["bias"]
            total += logits[following] - np.log(np.exp(logits).sum())
        return total


def test_perplexity_is_that_of_the_net_in_numpy(tiny_bundle: Path, corpus: Path) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    net, preprocess = Transcript(tiny_bundle), captioner.bundle.preprocess
    ids = [[captioner.vocabulary.encode(c) for c in said] for said in CAPTIONS]
    photos = [read_image(corpus / f"{i}.png", preprocess) for i in range(len(CAPTIONS))]
    sums = [net.log_prob(p, w) for p, said in zip(photos, ids, strict=True) for w in said if w]
    words = sum(len(w) + 1 for said in ids for w in said if w)
    report = plain_run(tiny_bundle, corpus).perplexity
    assert report.value == pytest.approx(2 ** (-sum(sums) / np.log(2) / words), rel=1e-5)
    assert report.words == words
    assert report.unknown == 1, "the one word that the vocabulary lacks"
    assert (report.vocabulary_size, report.min_count) == (12, None)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(3, 9), max_size=7)),
        min_size=1,
        max_size=9,
    )
)
def test_many_sentences_at_once_are_what_each_is_alone(pairs) -> None:
    model, images = TableModel(), encoded_images(3)
    expected = []
    for row, words in pairs:
        state, total = model.start(images.take(np.array([row]))), 0.0
        for token, following in zip([1, *words], [*words, 2], strict=True):
            scores, state = model.step(np.array([token]), state, 0, full=True)
            total += scores.log_probs[0, following]
        expected.append(total)
    np.testing.assert_allclose(log_probs(model, images, pairs), expected, rtol=1e-6)


def test_a_surer_model_has_less_perplexity(tiny_bundle: Path) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    images = captioner.encoder.encode(np.zeros((1, 16, 16, 3), np.uint8))
    (likely,) = captioner.model.step(np.array([1]), captioner.model.start(images), 12)[0].ids
    words = [captioner.vocabulary.decode([i]) for i in likely if i > 3]
    best, worst = (measure_perplexity(captioner, images, [[w]]) for w in (words[0], words[-1]))
    assert best.value < worst.value


def test_the_captions_are_those_of_mrnn_caption(tiny_bundle: Path, corpus: Path) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    paths = sorted(corpus.glob("*.png"))
    said = [c.text for c in captioner.caption(paths, decoder="greedy")]
    records = [
        {"file": path.name, "captions": [text], "split": "test"}
        for path, text in zip(paths, said, strict=True)
    ]
    (corpus / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = plain_run(tiny_bundle, corpus, search=SearchOptions(decoder="greedy"))
    assert report.measures["ROUGE-L"] == pytest.approx(1.0)
    assert report.search["decoder"] == "greedy"


def test_the_report_says_what_was_measured(tiny_bundle: Path, corpus: Path) -> None:
    report = plain_run(
        tiny_bundle, corpus, search=SearchOptions(beam_size=2, length_penalty=0.5), limit=2
    )
    assert (report.images, report.captions, report.split) == (2, 5, "test")
    assert report.model["name"] == "tiny"
    assert re.fullmatch("[0-9a-f]{64}", report.model["sha256"])
    assert report.search == {
        "decoder": "beam",
        "reranker": "none",
        "beam_size": 2,
        "length_penalty": 0.5,
        "min_length": 1,
        "max_length": 8,
        "no_repeat_ngram": 0,
    }
    assert (report.tokeniser, report.provider) == ("plain", "CPUExecutionProvider")
    assert json.loads(json.dumps(asdict(report)))["measures"]["BLEU-4"] <= 1


def test_rerankers_choose_among_the_same_candidates(tiny_bundle: Path, corpus: Path) -> None:
    search = SearchOptions(
        beam_size=4, rerankers=("none", "log-prob", "length-normalised"), oracle=True
    )
    report = plain_run(tiny_bundle, corpus, search=search)
    assert [row.reranker for row in report.rows] == [
        "none",
        "log-prob",
        "length-normalised",
        "oracle",
    ]
    assert report.measures == report.rows[0].measures
    captioner = load(tiny_bundle, provider="cpu")
    for row in report.rows[:3]:
        captions = captioner.caption(
            sorted(corpus.glob("*.png")), beam_size=4, reranker=row.reranker
        )
        texts = [caption.text for caption in captions]
        assert row.measures == measure(CAPTIONS, texts, tokeniser="plain").values
    assert report.rows[3].measures["CIDEr"] == max(row.measures["CIDEr"] for row in report.rows)


def test_the_oracle_takes_what_was_really_said(tiny_bundle: Path, corpus: Path) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    paths = sorted(corpus.glob("*.png"))
    worst = [c.candidates[-1].caption for c in captioner.caption(paths, beam_size=4, n_best=4)]
    records = [
        {"file": path.name, "captions": [text], "split": "test"}
        for path, text in zip(paths, worst, strict=True)
    ]
    (corpus / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = plain_run(tiny_bundle, corpus, search=SearchOptions(beam_size=4, oracle=True))
    assert [row.reranker for row in report.rows] == ["none", "oracle"]
    assert report.rows[1].measures["ROUGE-L"] == pytest.approx(1)
    assert report.rows[0].measures["ROUGE-L"] < 1


def test_k_and_m_are_swept_without_decoding_again(
    tiny_bundle: Path, corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    references.build(tiny_bundle, tmp_path / "r", sets=[("folder", str(corpus))], split="test")
    calls = []
    decode = Captioner.decode
    monkeypatch.setattr(
        Captioner, "decode", lambda *args, **options: calls.append(1) or decode(*args, **options)
    )
    search = SearchOptions(
        beam_size=4,
        rerankers=("none", "consensus-cider"),
        k=(1, 3),
        m=(1, 2),
        references=tmp_path / "r",
    )
    report = plain_run(tiny_bundle, corpus, search=search)
    assert len(calls) == 1
    assert [(row.reranker, row.k, row.m) for row in report.rows] == [
        ("none", None, None),
        ("consensus-cider", 1, 1),
        ("consensus-cider", 1, 2),
        ("consensus-cider", 3, 1),
        ("consensus-cider", 3, 2),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": SearchOptions(rerankers=("nobody",))}, "unknown reranker"),
        ({"search": SearchOptions(rerankers=("consensus-cider",), k=(0,))}, "k must be"),
        ({"limit": 0}, "limit"),
        ({"split": "train"}, "no photo in split train"),
        ({"search": SearchOptions(decoder="bean")}, "unknown decoder"),
        ({"search": SearchOptions(beam_size=0)}, "beam_size"),
        ({"tokeniser": "bert"}, "tokeniser"),
    ],
)
def test_what_cannot_be_done_is_a_usage_error(tiny_bundle, corpus, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        run(tiny_bundle, **{"dataset": "folder", "root": corpus, "provider": "cpu"} | options)


def test_captions_without_a_word_have_no_perplexity(tiny_bundle: Path) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    images = captioner.encoder.encode(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match="has a word"):
        measure_perplexity(captioner, images, [["...", "!"]])


def test_many_broken_photos_are_an_error(tiny_bundle: Path, corpus: Path) -> None:
    (corpus / "1.png").write_bytes(b"no photo")
    with pytest.raises(UsageError, match=r"cannot be read: 1 of 3: 1\.png"):
        plain_run(tiny_bundle, corpus)


def test_a_few_broken_photos_are_left_out(tiny_bundle: Path, corpus: Path, make_photos) -> None:
    paths = make_photos(corpus, 101)
    paths[50].write_bytes(b"no photo")
    records = [{"file": p.name, "captions": ["a dog"], "split": "test"} for p in paths]
    (corpus / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = plain_run(tiny_bundle, corpus, search=SearchOptions(decoder="greedy"))
    assert (report.images, report.captions, report.perplexity.words) == (100, 100, 300)


@pytest.fixture
def invoke():
    app = typer.Typer(pretty_exceptions_enable=False)
    plugin.mrnn_commands(app)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_the_command_prints_a_table_and_writes_json(
    tiny_bundle: Path, corpus: Path, invoke, tmp_path: Path
) -> None:
    target = tmp_path / "figures.json"
    arguments = ["evaluate", tiny_bundle, "--dataset", "folder", "--root", corpus]
    done = invoke(*arguments, "--decoder", "greedy", "--tokeniser", "plain", "--json", target)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    for part in ("tiny 1.0", "none", "greedy", "plain", "perplexity", "B-4", "CIDEr"):
        assert part in done.stdout
    figures = json.loads(target.read_text())
    assert figures["command"] == (
        "mrnn evaluate bundle --dataset folder --root DIR --split test --decoder greedy"
        " --tokeniser plain"
    )
    assert str(corpus) not in target.read_text()
    assert f"{figures['perplexity']['value']:.2f}" in done.stdout


def test_the_command_has_a_line_for_each_choice(
    tiny_bundle: Path, corpus: Path, invoke, tmp_path: Path
) -> None:
    target = tmp_path / "figures.json"
    arguments = ["evaluate", tiny_bundle, "--dataset", f"folder:{corpus}", "--oracle"]
    chosen = ["--reranker", "none", "--reranker", "log-prob", "--tokeniser", "plain"]
    done = invoke(*arguments, *chosen, "--json", target)
    assert done.exit_code == 0, done.output
    figures = json.loads(target.read_text())
    assert figures["command"] == (
        "mrnn evaluate bundle --dataset folder --root DIR --split test --reranker none"
        " --reranker log-prob --oracle --tokeniser plain"
    )
    assert [row["reranker"] for row in figures["rows"]] == ["none", "log-prob", "oracle"]
    for row in figures["rows"]:
        assert row["reranker"] in done.stdout
        assert f"{row['measures']['CIDEr']:.3f}" in done.stdout


def test_the_command_wants_one_folder(tiny_bundle: Path, corpus: Path, invoke) -> None:
    for words in (["folder"], [f"folder:{corpus}", "--root", corpus]):
        done = invoke("evaluate", tiny_bundle, "--dataset", *words)
        assert isinstance(done.exception, UsageError)


def test_without_java_the_command_says_so(
    tiny_bundle: Path, corpus: Path, invoke, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = invoke("evaluate", tiny_bundle, "--dataset", "folder", "--root", corpus)
    assert "no Java" in done.stderr
    assert "METEOR" not in done.stdout
    assert "plain" in done.stdout


def test_a_json_folder_that_is_missing_is_found_out_first(
    tiny_bundle: Path, corpus: Path, invoke
) -> None:
    target = corpus / "no" / "figures.json"
    done = invoke(
        "evaluate", tiny_bundle, "--dataset", "folder", "--root", corpus, "--json", target
    )
    assert isinstance(done.exception, UsageError)


@pytest.mark.parametrize(
    ("script", "heavy"),
    [
        ("import mrnn_exporters.evaluate", {"torch", "onnx"}),
        (
            "import typer, mrnn_exporters.plugin as plugin; app = typer.Typer();"
            "plugin.mrnn_commands(app); typer.main.get_group(app); plugin.mrnn_cells()",
            {"torch", "onnx", "onnxruntime", "numpy", "PIL", "tokenizers"},
        ),
    ],
)
def test_what_is_light_stays_light(script: str, heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; import sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert not heavy & set(done.stdout.split())


def test_results_for_the_server_of_coco(tiny_bundle: Path, make_photos, tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "coco" / "images", 3)
    document = {
        "images": [{"id": 40 + i, "file_name": path.name} for i, path in enumerate(paths)],
        "annotations": [
            {"id": i, "image_id": 40 + i, "caption": "A dog runs ."} for i in range(len(paths))
        ],
    }
    (tmp_path / "coco" / "captions_val2014.json").write_text(json.dumps(document))
    (tmp_path / "coco" / "test.txt").write_text("42\n40\n41\n")
    run(
        tiny_bundle,
        dataset="coco",
        root=tmp_path / "coco",
        tokeniser="plain",
        provider="cpu",
        coco_results=tmp_path / "out",
    )
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "captions_test_tiny_results.json"
    said = {c.path: c.text for c in load(tiny_bundle, provider="cpu").caption(paths)}
    assert json.loads(file.read_text()) == [
        {"image_id": 40 + i, "caption": said[str(paths[i])]} for i in (2, 0, 1)
    ]


def test_other_photos_have_no_number_for_the_server(tiny_bundle, corpus, tmp_path) -> None:
    with pytest.raises(UsageError, match="has no COCO ids"):
        plain_run(tiny_bundle, corpus, coco_results=tmp_path / "out")
    assert not (tmp_path / "out").exists()
