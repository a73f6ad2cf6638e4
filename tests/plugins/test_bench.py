"""``mrnn bench``: it captions as ``mrnn caption`` does, and its figures belong together."""

import json

import numpy as np
import pytest

from mrnn_runtime import ImageError, UsageError, load, read_image
from mrnn_runtime.build import find_images, manager, read_manifest, write_manifest

benching = pytest.importorskip("mrnn_devtools.bench", reason="mrnn-devtools is not installed")
STAGES, bench, make_photos = benching.STAGES, benching.bench, benching.make_photos


@pytest.fixture
def captioner(tiny_bundle):
    return load(tiny_bundle, provider="cpu", threads=1)


def test_the_figures(captioner, photos):
    report = bench(captioner, find_images([photos]), threads=1, repeats=2)
    assert (report.model, report.precision) == ("tiny 1.0", "fp32")
    assert (report.provider, report.decoder, report.reranker) == (
        captioner.encoder.provider,
        "beam",
        None,
    )
    assert (report.photos, report.repeats) == (3, 2)
    assert tuple(report.stages) == STAGES
    assert all(report.stages[stage] > 0 for stage in STAGES if stage != "rerank")
    assert report.stages["rerank"] == 0
    assert 0 < report.p50 <= report.p95
    assert report.captions_a_second > 0
    assert report.peak_mb is None or report.peak_mb > 20
    assert {"python", "machine", "mrnn-runtime", "numpy"} <= report.versions.keys()


def test_a_reranker_has_a_stage_of_its_own(captioner, photos):
    report = bench(captioner, find_images([photos]), reranker="length-normalised", repeats=1)
    assert report.reranker == "length-normalised"
    assert report.stages["rerank"] > 0


def test_a_stage_inside_another_is_no_part_of_it():
    clock = benching._Clock()
    with clock.on("search"):
        for _ in range(3):
            with clock.on("step"):
                sum(range(200_000))
    assert clock.spent["step"] > clock.spent["search"] > 0


@pytest.mark.parametrize("reduced", [False, True])
def test_it_reads_as_the_captioner_does(tiny_copy, photos, monkeypatch, reduced):
    manifest = read_manifest(tiny_copy)
    manifest["preprocess"]["reduced"] = reduced
    write_manifest(tiny_copy, manifest)
    captioner = load(tiny_copy, provider="cpu", threads=1)
    seen = []
    encode = type(captioner.encoder).encode

    def record(self, images):
        seen.append(images)
        return encode(self, images)

    monkeypatch.setattr(type(captioner.encoder), "encode", record)
    path = photos / "b.jpg"
    bench(captioner, [path], repeats=1)
    wanted = read_image(path, captioner.bundle.preprocess)
    assert len(seen) == 3  # one that does not count, one by one, all at once
    for images in seen:
        np.testing.assert_array_equal(images, wanted[np.newaxis])


def test_the_clock_does_not_run_while_the_reranker_is_loaded(captioner, photos, monkeypatch):
    events = []

    class Clock:
        def perf_counter(self):
            events.append("clock")
            return float(len(events))

    def load(kind, name):
        events.append(f"load {name}")
        return real(kind, name)

    plugins = manager()
    real = plugins.load
    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.setattr(benching, "time", Clock())
    bench(captioner, find_images([photos]), reranker="log-prob", repeats=1)
    assert events.count("load log-prob") == 1
    assert events.index("load log-prob") < events.index("clock")


def test_photos_are_made_up_as_a_camera_might_take_them(tmp_path):
    paths = make_photos(tmp_path, 2)
    assert find_images([tmp_path]) == paths
    for path in paths:
        assert path.read_bytes().startswith(b"\xff\xd8")
        assert 20_000 < path.stat().st_size < 200_000


@pytest.mark.parametrize(
    "wrong",
    [{"repeats": 0}, {"workers": 0}, {"batch_size": 0}, {"beam_size": 0}, {"decoder": "no"}],
    ids=str,
)
def test_what_cannot_be_measured(captioner, photos, wrong):
    with pytest.raises(UsageError):
        bench(captioner, find_images([photos]), **wrong)


def test_an_image_that_cannot_be_read(captioner, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        bench(captioner, [tmp_path / "a.jpg"])


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_no_photo(mrnn, tiny_bundle, photos, limit):
    """Made-up photos would be timed, or all but the last."""
    done = mrnn("bench", tiny_bundle, "--images", photos, "--limit", limit)
    assert (done.code, done.out) == (2, "")


def test_the_command(mrnn, tiny_bundle, photos):
    given = ("bench", tiny_bundle, "--provider", "cpu", "--repeats", 1)
    shown = mrnn(*given, "--images", photos, "--limit", 2)
    assert shown.code == 0, shown.err
    labels = [line.split(" ")[0] for line in shown.out.splitlines()]
    assert labels == [
        *("model", "provider", "photos", *STAGES),
        *("photo", "", "throughput", "memory", "versions"),
    ]
    facts = json.loads(mrnn(*given, "--json", "--workers", 2, "--beam-size", 1).out)
    assert (facts["photos"], facts["workers"], facts["threads"]) == (benching.MADE_UP, 2, 1)
    assert facts["stages"].keys() == set(STAGES)
