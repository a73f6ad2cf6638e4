"""The confidence of captions: what it is made of, and what the command line does with it."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrnn_runtime import Candidate, load
from mrnn_runtime.bundle.loading import load_bundle, read_manifest, write_manifest
from mrnn_runtime.decoding.confidence import SIGNALS, Calibration, signals
from mrnn_runtime.errors import BundleError
from mrnn_runtime.images import read_image
from mrnn_runtime.types import DecodeOptions

if TYPE_CHECKING:
    from pathlib import Path

CONFIDENCE = {
    "decoder": "beam",
    "beam_size": 3,
    "good": 0.5,
    "bias": 3.0,
    "weights": {"per_word": 1.0, "length": -0.5, "image": 2.0},
    "threshold": 0.5,
}
CANDIDATES = st.builds(
    Candidate,
    st.lists(st.integers(4, 9), min_size=1, max_size=6).map(tuple),
    st.floats(-50, 0),
    st.just(0.0),
    st.booleans(),
)
FEATURES = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=4).map(np.float32)


@pytest.fixture
def calibrated(tiny_copy: Path) -> Path:
    write_manifest(tiny_copy, read_manifest(tiny_copy) | {"confidence": CONFIDENCE})
    return tiny_copy


def test_signals_of_a_caption() -> None:
    candidate, feature = Candidate((4, 5, 6), -4.0, 0.0, True), np.float32([1, -1, 0, 2])
    assert signals(candidate, feature) == {"per_word": -1.0, "length": 3.0, "image": 1.5}
    cut = Candidate((8, 9), -6.0, 0.0, False)
    assert signals(cut, feature)["per_word"] == -3.0  # no end sign to count


@given(CANDIDATES, FEATURES, st.floats(-5, 5), st.floats(-5, 5))
def test_it_is_a_probability_and_rises_with_the_bias(
    candidate: Candidate, feature: np.ndarray, bias: float, weight: float
) -> None:
    def of(offset: float) -> float:
        weights = dict.fromkeys(SIGNALS, weight)
        calibration = Calibration("beam", 5, 0.5, bias + offset, weights, 0.5)
        return calibration.confidence(candidate, feature)

    assert 0 <= of(0) <= of(1) <= 1


def test_a_caption_has_it_where_the_search_is_the_calibrated_one(
    calibrated: Path, tiny_bundle: Path, photos: Path
) -> None:
    captioner = load(calibrated, provider="cpu", threads=1)
    plain = load(tiny_bundle, provider="cpu", threads=1)
    for ours, theirs in zip(captioner.caption(photos), plain.caption(photos), strict=True):
        assert ours.confidence is not None
        assert 0 < ours.confidence < 1
        assert (ours.text, ours.log_prob) == (theirs.text, theirs.log_prob)
        assert theirs.confidence is None
    for other in ({"decoder": "greedy"}, {"beam_size": 2}):
        assert next(captioner.caption(photos, **other)).confidence is None
    ranked = next(captioner.caption(photos, reranker="length-normalised", n_best=5))
    assert ranked.confidence is not None


def test_it_is_what_the_formula_says(calibrated: Path, photos: Path) -> None:
    captioner = load(calibrated, provider="cpu", threads=1)
    caption = next(captioner.caption(photos / "a.png"))
    image = read_image(photos / "a.png", captioner.bundle.preprocess)
    (feature,) = captioner.encoder.encode(image[None]).reference_feature
    length = len(caption.text.split())
    total = 3 + caption.log_prob / (length + caption.finished) - length / 2
    total += 2 * np.mean(feature.astype(float) ** 2)
    assert caption.confidence == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-5)


def test_unsure_captions_are_kept_back_and_counted(mrnn, calibrated: Path, photos: Path) -> None:
    def run(*args: object):
        return mrnn("caption", photos, "--model", calibrated, "--provider", "cpu", *args)

    records = [json.loads(line) for line in run("--format", "jsonl").out.splitlines()]
    sure = sorted(record["confidence"] for record in records)[1]
    result = run("--format", "jsonl", "--min-confidence", sure)
    assert result.code == 0
    assert "1 of 3 captions kept back" in result.err
    for record, before in zip(map(json.loads, result.out.splitlines()), records, strict=True):
        assert record["confidence"] == before["confidence"]
        if before["confidence"] < sure:
            assert (record["caption"], record["candidates"]) == (None, [])
        else:
            assert record == before
    (photos / "z.png").write_bytes(b"no image")  # which is no caption
    assert "1 of 3 captions kept back" in run("--min-confidence", sure).err
    (photos / "z.png").unlink()
    assert len(run("--min-confidence", sure).out.splitlines()) == 2
    rows = csv.DictReader(io.StringIO(run("--format", "csv", "--min-confidence", sure).out))
    assert sorted(bool(row["caption"]) for row in rows) == [False, True, True]


def test_a_search_without_it_cannot_be_asked_for_it(
    mrnn, calibrated: Path, tiny_bundle: Path, photos: Path
) -> None:
    for args in (("--model", tiny_bundle), ("--model", calibrated, "--beam-size", 2)):
        result = mrnn("caption", photos, "--provider", "cpu", "--min-confidence", 0.5, *args)
        assert (result.code, result.out) == (2, "")
        assert "no confidence for this search" in result.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"weights": {"luck": 1.0}}, "luck is no signal|luck.* is no signal"),
        ({"weights": {"per_word": "much"}}, "per_word"),
        ({"bias": None}, "bias"),
    ],
)
def test_a_damaged_calibration_is_named(
    tiny_copy: Path, change: dict[str, object], message: str
) -> None:
    manifest = read_manifest(tiny_copy) | {"confidence": CONFIDENCE | change}
    with pytest.raises(BundleError, match=message):
        write_manifest(tiny_copy, manifest)
    assert load_bundle(tiny_copy).calibration is None


def test_the_calibration_is_read_back(calibrated: Path) -> None:
    calibration = load_bundle(calibrated).calibration
    assert calibration == Calibration(**CONFIDENCE)
    assert calibration.fits("beam", DecodeOptions(beam_size=3))
    assert not calibration.fits("beam", DecodeOptions(beam_size=4))
