"""``mrnn index`` on the tiny bundle: built, used, put into the bundle, refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mrnn_exporters import plugin
from mrnn_exporters.references import add, build
from mrnn_runtime import BundleError, RerankOptions, UsageError, load, load_bundle
from mrnn_runtime.images import read_image
from mrnn_runtime.reranking.references import load_references

CAPTIONS = [
    ["A dog runs on grass .", "The man's hat", "a a a a a a a a"],
    ["A man .", "dog"],
    ["Grass on a hat 's dog", "..."],
    ["A zebra"],
]


@pytest.fixture
def corpus(tmp_path: Path, make_photos) -> Path:
    paths = make_photos(tmp_path / "corpus", len(CAPTIONS))
    records = [
        {"file": path.name, "captions": said, "split": "train"}
        for path, said in zip(paths, CAPTIONS, strict=True)
    ]
    (tmp_path / "corpus" / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path / "corpus"


@pytest.fixture
def references(tiny_bundle: Path, corpus: Path, tmp_path: Path) -> Path:
    build(tiny_bundle, tmp_path / "references", sets=[("folder", str(corpus))])
    return tmp_path / "references"


@pytest.fixture
def invoke():
    app = typer.Typer(pretty_exceptions_enable=False)
    plugin.mrnn_commands(app)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_the_features_are_the_encoders(tiny_bundle: Path, corpus: Path, references: Path) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    loaded = load_references(captioner.bundle, references)
    assert loaded.images == ("0.png", "1.png", "2.png", "3.png")
    assert loaded.lengths.tolist() == [5, 4, 8, 2, 1, 6, 2]
    photos = [
        read_image(path, captioner.bundle.preprocess) for path in sorted(corpus.glob("*.png"))
    ]
    features = captioner.encoder.encode(np.stack(photos)).reference_feature
    for place, ((row,), (distance,)) in enumerate(loaded.nearest(features, 1)):
        assert (row, distance) == (place, 0)


def test_a_sample_is_spread_over_all_photos(
    tiny_bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    for limit, names in ((2, ["0.png", "2.png"]), (9, [f"{i}.png" for i in range(4)])):
        folder = tmp_path / str(limit)
        result = build(tiny_bundle, folder, sets=[("folder", str(corpus))], limit=limit)
        assert list(result.images) == names


def test_a_photo_of_the_training_set_gets_a_vote_unless_it_is_left_out(
    tiny_bundle: Path, corpus: Path, references: Path
) -> None:
    captioner = load(tiny_bundle, provider="cpu")

    def voters(**options):
        (caption,) = captioner.caption(
            corpus / "2.png",
            reranker="consensus-cider",
            rerank=RerankOptions(references=references, k=2, m=1, **options),
            explain=True,
        )
        return [one.image for one in caption.neighbours]

    first, second = voters()
    assert first == "2.png"
    assert voters(leave_one_out=True)[0] == second
    assert "2.png" not in voters(leave_one_out=True)


def test_the_command_builds_and_says_what(
    tiny_bundle: Path, corpus: Path, tmp_path: Path, invoke
) -> None:
    target = tmp_path / "mine"
    arguments = ["--dataset", "folder", "--root", corpus, "--output", target]
    done = invoke(
        "index", "build", "--model", tiny_bundle, *arguments, "--dtype", "float16",
        "--keep-captions",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "4 photos, 7 captions" in done.stdout
    loaded = load_references(load_bundle(tiny_bundle), target)
    assert loaded.features.numbers.dtype == np.float16
    records = [json.loads(line) for line in (target / "captions.jsonl").read_text().splitlines()]
    assert [record["captions"] for record in records] == CAPTIONS
    again = invoke("index", "build", "--model", tiny_bundle, *arguments)
    assert isinstance(again.exception, UsageError)
    assert "exists already" in str(again.exception)


def test_references_in_the_bundle_are_the_default(
    tiny_copy: Path, corpus: Path, references: Path, invoke
) -> None:
    given = ["--reranker", "consensus-cider", "--neighbours", 3, "--votes", 2]
    done = invoke("index", "add", references, tiny_copy, *given, "--default")
    assert done.exit_code == 0, done.output
    bundle = load_bundle(tiny_copy)
    assert bundle.reranker == "consensus-cider"
    assert bundle.rerank_options == {"consensus-cider": RerankOptions(k=3, m=2)}
    by_default = list(load(tiny_copy, provider="cpu").caption(corpus, explain=True))
    assert {len(caption.neighbours) for caption in by_default} == {3}
    options = RerankOptions(k=3, m=2, references=references)
    assert by_default == list(
        load(tiny_copy, provider="cpu").caption(
            corpus, reranker="consensus-cider", rerank=options, explain=True
        )
    )
    add(references, tiny_copy)
    again = load_bundle(tiny_copy)
    assert again.references != bundle.references
    assert not (tiny_copy / bundle.references).exists()
    same = {"files": bundle.files, "references": bundle.references}
    assert replace(again, **same) == bundle, "a second time they are replaced, the rest stays"
    add(references, tiny_copy, reranker="consensus-bleu", k=2)
    bundle = load_bundle(tiny_copy)
    assert bundle.reranker == "consensus-cider"
    assert bundle.rerank_options["consensus-bleu"] == RerankOptions(k=2)


def test_what_cannot_be_added_leaves_the_bundle_as_it_was(
    tiny_copy: Path, references: Path, tmp_path: Path
) -> None:
    before = load_bundle(tiny_copy)
    for options in ({"k": 3}, {"default": True}, {"reranker": "consensus-cider", "k": 0}):
        with pytest.raises(UsageError):
            add(references, tiny_copy, **options)
    with pytest.raises(BundleError, match="holds no references"):
        add(tmp_path, tiny_copy)
    (references / "ngrams.npy").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"ngrams\.npy has 7 bytes"):
        add(references, tiny_copy)
    assert load_bundle(tiny_copy) == before


class Killed(BaseException):
    """As a process that is killed, it gets nothing done any more."""


class Machine:
    """Counts what changes files, and lets nothing through from one such event on."""

    def __init__(self) -> None:
        self.left = -1  # switched off; an audit hook cannot be removed
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        changes = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir")
        changes |= event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if self.left >= 0 and changes:
            self.left = max(0, self.left - 1)
            if not self.left:
                raise Killed


def test_a_kill_leaves_the_bundle_as_it_was_or_as_it_is_to_be(
    tiny_copy: Path, corpus: Path, references: Path, tmp_path: Path
) -> None:
    add(references, tiny_copy)
    other = tmp_path / "other"
    build(tiny_copy, other, sets=[("folder", str(corpus))], dtype="float16")
    machine, types = Machine(), []
    for moment in range(1, 1000):
        bundle = Path(shutil.copytree(tiny_copy, tmp_path / str(moment)))
        machine.left = moment
        try:
            add(other, bundle, reranker="consensus-cider", default=True)
        except Killed:
            killed = True
        else:
            killed = False
        finally:
            machine.left = -1
        loaded = load_bundle(bundle)
        types.append(load_references(loaded).features.numbers.dtype.name)
        assert (loaded.reranker is None) == (types[-1] == "int8")
        add(references, bundle)
        assert load_references(load_bundle(bundle)).features.numbers.dtype.name == "int8"
        assert not list(bundle.glob("references*.*"))
        if not killed:
            break
    assert len(types) > 20
    assert types == sorted(types, reverse=True), "int8 up to one moment, float16 from there on"
    assert (types[0], types[-1]) == ("int8", "float16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "flickr9k"}, "unknown data set"),
        ({"split": "dev"}, "no photo in split dev"),
        ({"dtype": "int4"}, "unknown feature dtype"),
    ],
)
def test_mistakes_leave_no_folder(tiny_bundle: Path, corpus: Path, tmp_path, options, message):
    sets = [(options.pop("dataset", "folder"), str(corpus))]
    given = {"sets": sets, "provider": "cpu"} | options
    with pytest.raises(UsageError, match=message):
        build(tiny_bundle, tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_no_torch_no_java_no_scipy(tiny_bundle: Path, corpus: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mrnn_exporters.references import build;"
        "build(sys.argv[1], Path(sys.argv[2]), sets=[('folder', sys.argv[3])]);"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tiny_bundle, tmp_path / "new", corpus],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": str(tmp_path)},
    )
    assert not {"torch", "onnx", "scipy", "pycocoevalcap"} & set(done.stdout.split())
