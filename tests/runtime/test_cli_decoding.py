"""``mrnn caption``: sampling, prefix, rerankers, references, explanations and the report."""

import json

import numpy as np
import pytest

from mrnn_runtime import load
from mrnn_runtime.build import build_references
from mrnn_runtime.engine.inputs import find_images
from mrnn_runtime.images import read_image
from mrnn_runtime.reranking.references import save_references

CAPTIONS = ["a man runs on grass", "a dog 's hat", "a dog runs", "man on a hat", "grass"]


@pytest.fixture
def records(caption):
    """Run ``mrnn caption --format jsonl`` and return the records."""

    def run(*args):
        result = caption(*args, "--format", "jsonl")
        assert result.code == 0
        assert len(result.err.splitlines()) == 1
        return [json.loads(line) for line in result.out.splitlines()]

    return run


@pytest.fixture
def references(tiny_bundle, photos, tmp_path):
    """References made of the three photos themselves, each with two captions."""
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    files = find_images([photos])
    images = np.stack([read_image(path, captioner.bundle.preprocess) for path in files])
    ids = [captioner.vocabulary.encode(text) for text in CAPTIONS]
    made = build_references(
        [path.name for path in files],
        captioner.encoder.encode(images).reference_feature,
        [ids[:2], ids[2:4], ids[4:]],
        captioner.bundle.vocabulary_size,
    )
    save_references(made, tmp_path / "references", captioner.bundle, source="a test")
    return tmp_path / "references"


# searching


def test_every_caption_starts_with_the_prefix(caption, photos):
    for decoder in ("greedy", "beam", "sample"):
        result = caption(photos, "--prefix", "a dog", "--decoder", decoder)
        assert all(line.split("\t")[1].startswith("a dog") for line in result.out.splitlines())


def test_samples_repeat_with_their_seed(caption, photos):
    image = photos / "a.png"

    def sample(*args):
        result = caption(image, "--decoder", "sample", "--n-best", 8, *args)
        assert len(result.out.splitlines()) == 8
        return result.out

    assert sample("--seed", 1) == sample("--seed", 1)
    assert sample("--seed", 1) != sample("--seed", 2)
    assert sample() == sample("--seed", 0, "--temperature", 1, "--top-k", 0, "--top-p", 1)


@pytest.mark.parametrize(
    "sharp", [["--temperature", "0.01"], ["--top-k", "1"], ["--top-p", "0.000001"]]
)
def test_the_sharpest_sampling_is_greedy(caption, photos, sharp):
    greedy = caption(photos, "--decoder", "greedy").out
    assert caption(photos, "--decoder", "sample", *sharp).out == greedy


def test_a_decoder_ignores_what_is_not_its_own(caption, photos):
    plain = caption(photos)
    assert caption(photos, "--temperature", 9, "--top-k", 1, "--seed", 3) == plain


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--temperature", "0"], "temperature must be a number in 0.01..100"),
        (["--top-p", "2"], "top_p"),
        (["--top-k", "-1"], "top_k"),
        (["--seed", "-1"], "seed"),
        (["--prefix", "a dgo"], "'dgo'"),
        (["--prefix", "a dog", "--ban", "dog"], "the prefix contains banned"),
        (["--neighbours", "0", "--reranker", "consensus-cider"], "k must be"),
        (["--votes", "0", "--reranker", "consensus-cider"], "m must be"),
        (["--references", "x"], "there is no reranker"),
        (["--explain"], "there is no reranker"),
        (["--leave-one-out", "--reranker", "none"], "there is no reranker"),
        (["--report", "no/such/folder/x.html"], "cannot write no/such/folder/x.html"),
        (["--report", "."], "cannot write ."),
    ],
)
def test_usage_errors_are_2_and_say_what(caption, photos, args, complaint):
    result = caption(photos, *args)
    assert (result.code, result.out) == (2, "")
    assert complaint in result.err


# reranking


def test_candidates_carry_both_ranks_and_the_score(records, photos):
    for record in records(
        photos, "--reranker", "length-normalised", "--beam-size", 6, "--n-best", 6
    ):
        candidates = record["candidates"]
        assert record["reranker"] == "length-normalised"
        assert [one["rank"] for one in candidates] == [1, 2, 3, 4, 5, 6]
        assert sorted(one["rank_before"] for one in candidates) == [1, 2, 3, 4, 5, 6]
        scores = [one["score"] for one in candidates]
        assert scores == sorted(scores, reverse=True)
        before = sorted(candidates, key=lambda one: one["rank_before"])
        assert [one["log_prob"] for one in before] == sorted(
            (one["log_prob"] for one in candidates), reverse=True
        )
        assert record["caption"] == candidates[0]["caption"]


def test_without_a_reranker_there_is_one_rank(records, photos):
    for record in records(photos, "--n-best", 3):
        assert record["reranker"] is None
        assert all(list(one) == ["caption", "log_prob", "score"] for one in record["candidates"])
        assert "neighbours" not in record


def test_references_of_ones_own(records, photos, references):
    args = (photos, "--reranker", "consensus-cider", "--references", references)
    args = (*args, "--neighbours", 1, "--votes", 1, "--beam-size", 6)
    plain = records(*args)
    explained = records(*args, "--explain")
    assert [record.pop("neighbours") for record in explained] == [
        [{"image": name, "distance": pytest.approx(0, abs=1e-2)}]
        for name in ("a.png", "b.jpg", "c.png")
    ]
    assert explained == plain


def test_what_is_logged_is_a_warning_of_the_command_line(caption, photos, references):
    args = (photos, "--reranker", "consensus-cider", "--references", references)
    for _ in range(2):  # each run tells it once
        assert caption(*args, "--votes", 500).err.splitlines()[:-1] == [
            "mrnn: warning: the 3 nearest reference photos have only 5 captions, fewer than"
            " --votes 500; all of them count"
        ]
    assert len(caption(*args).err.splitlines()) == 1  # nobody asked for so many


def test_leave_one_out_leaves_the_photo_itself_out(records, photos, references):
    args = (photos, "--reranker", "consensus-bleu", "--references", references, "--explain")
    args = (*args, "--neighbours", 2, "--votes", 1, "--leave-one-out")
    voted = [{one["image"] for one in record["neighbours"]} for record in records(*args)]
    assert voted == [{"b.jpg", "c.png"}, {"a.png", "c.png"}, {"a.png", "b.jpg"}]


def test_consensus_without_references_is_3(caption, photos, tmp_path):
    result = caption(photos, "--reranker", "consensus-cider")
    assert (result.code, result.out) == (3, "")
    assert "has no references" in result.err
    result = caption(photos, "--reranker", "consensus-cider", "--references", tmp_path)
    assert (result.code, result.out) == (3, "")
    assert "holds no references" in result.err


# the report


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--n-best", 2],
        ["--decoder", "sample", "--n-best", 3],
        ["--reranker", "length-normalised"],
        ["--reranker", "length-normalised", "--n-best", 2],
        ["--reranker", "length-normalised", "--decoder", "sample"],
    ],
)
@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_a_report_changes_no_other_output(caption, photos, tmp_path, args, form):
    (photos / "bad.jpg").write_text("no image")
    plain = caption(photos, *args, "--format", form)
    assert caption(photos, *args, "--format", form, "--report", tmp_path / "x.html") == plain
    assert plain.code == 1
    assert (tmp_path / "x.html").read_text("utf-8").count("<article") == 4


def test_a_report_shows_all_that_the_reranker_chose_among(caption, photos, tmp_path):
    args = (photos / "a.png", "--beam-size", 6, "--report", tmp_path / "x.html")
    caption(*args)
    assert (tmp_path / "x.html").read_text("utf-8").count("<li>") == 0
    caption(*args, "--reranker", "length-normalised")
    assert (tmp_path / "x.html").read_text("utf-8").count("<li>") == 6


def test_a_usage_error_leaves_the_report_alone(caption, photos, tmp_path):
    target = tmp_path / "x.html"
    target.write_text("precious")
    assert caption(photos, "--decoder", "baem", "--report", target).code == 2
    assert caption(photos, "--output", "no/such/file", "--report", target).code == 2
    assert target.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"x.html"}


# help


def test_help_has_sections_and_names_every_option(mrnn):
    text = mrnn("caption", "--help").out
    headings = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    names = [line.split()[0].rstrip(":") for line in headings]
    assert names == ["Arguments", "Model", "Search", "Sampling", "Reranking", "Output"]
    sections = dict(zip(names, text.split("\n\n")[-len(names) - 1 :], strict=False))
    assert "--temperature" in sections["Sampling"]
    assert "--references" in sections["Reranking"]
    assert "--report" in sections["Output"]
    assert "--help" in sections["Output"]
