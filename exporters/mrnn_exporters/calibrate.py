"""Fit what makes a confidence of a bundle's candidates, and measure what it is worth. No torch.

A caption counts as good where its CIDEr-D with the reference captions of the photo, document
frequencies those of the split, reaches a number. Logistic regression of that on the signals of
:func:`mrnn_runtime.build.signals`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from mrnn_exporters import datasets
from mrnn_exporters.encoding import encode
from mrnn_exporters.evaluate import cider_of, decode_all
from mrnn_exporters.folders import refuse_no_bundle
from mrnn_runtime import UsageError, load
from mrnn_runtime.build import SIGNALS, Calibration, read_manifest, signals, write_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mrnn_runtime import Captioner

BINS = 5
_DECAY = 1e-3  # keeps the fit finite where a signal parts the captions perfectly


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Captions whose confidence lies in one fifth of 0..1."""

    captions: int
    confidence: float
    good: float
    cider: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the confidence of captions says about their CIDEr-D.

    Attributes:
        dataset: names of the data sets.
        split: of each.
        captions: how many.
        spearman: rank correlation of confidence and CIDEr-D; of each signal alone too.
        calibration_error: mean over captions of the difference between confidence and share of good
            ones, in bins (the expected calibration error).
        threshold: of the rows below.
        accepted: share of the captions at or above it.
        cider_accepted: their mean CIDEr-D.
        cider_rest: that of the others.
        bins: the reliability diagram in numbers.
    """

    dataset: tuple[str, ...]
    split: str
    captions: int
    spearman: dict[str, float]
    calibration_error: float
    threshold: float
    accepted: float
    cider_accepted: float
    cider_rest: float
    bins: tuple[Bin, ...]


def run(
    model: Path,
    sets: Sequence[tuple[str, str]],
    *,
    split: str = "dev",
    good: float = 0.5,
    threshold: float = 0.5,
    names: Sequence[str] = SIGNALS,
    check: bool = False,
    provider: str = "auto",
) -> Report:
    """Fit a bundle's confidence on a split and write it into ``bundle.json``, or only measure it.

    Args:
        model: the folder of a bundle.
        sets: name and folder of each data set.
        split: train, dev or test; not one that the model was trained on.
        good: the CIDEr-D from which on a caption counts as good.
        threshold: the confidence below which a caption is better not shown.
        names: the signals to use.
        check: whether to measure the confidence that the bundle has, and to write nothing.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        UsageError: an unknown name, or a bundle without a confidence to check.
        BundleError: the bundle is damaged.
    """
    if unknown := set(names) - set(SIGNALS):
        raise UsageError(f"unknown signals {unknown}", hint=f"use some of {', '.join(SIGNALS)}")
    names = tuple(dict.fromkeys(names))  # one that is there twice would share its weight
    refuse_no_bundle(model)
    captioner = load(model, provider=provider, threads=1)
    calibration = captioner.bundle.calibration
    if check and calibration is None:
        raise UsageError(f"{model} has no confidence", hint="leave out --check to fit one")
    parts = [_measure(captioner, name, root, split) for name, root in sets]
    table = np.concatenate([signal for signal, _ in parts])
    worth = np.concatenate([values for _, values in parts])
    if not check or calibration is None:
        columns = [SIGNALS.index(name) for name in names]
        bias, *weights = fit(table[:, columns], worth >= good)
        calibration = Calibration(
            decoder=captioner.bundle.decoder,
            beam_size=captioner.bundle.decode_options.beam_size,
            good=good,
            bias=bias,
            weights=dict(zip(names, weights, strict=True)),
            threshold=threshold,
        )
    report = _report(calibration, table, worth, tuple(name for name, _ in sets), split)
    if not check:
        manifest = read_manifest(model) | {"confidence": asdict(calibration)}
        manifest["training"] |= {"calibration": asdict(report)}
        write_manifest(model, manifest)
    return report


def fit(table: NDArray[np.float64], good: NDArray[np.bool_]) -> list[float]:
    """Return bias and weights of the logistic regression of ``good`` [n] on ``table`` [n, s].

    Newton's method on standardised signals.

    Raises:
        UsageError: all captions are good, or none is.
    """
    if good.all() or not good.any():
        raise UsageError("all captions are good or none is", hint="choose another --good")
    centre, scale = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-9)
    design = np.column_stack([np.ones(len(table)), (table - centre) / scale])
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        guess = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (good - guess) / len(good) - _DECAY * weights
        curvature = (design * (guess * (1 - guess))[:, None]).T @ design / len(good)
        step = np.linalg.solve(curvature + _DECAY * np.eye(len(weights)), gradient)
        weights += step
        if np.abs(step).max() < 1e-10:
            break
    slopes = weights[1:] / scale
    return [float(weights[0] - slopes @ centre), *map(float, slopes)]


def _measure(
    captioner: Captioner, dataset: str, root: str, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the signals of each best caption, [n, s], and its CIDEr-D, [n]."""
    examples, images = encode(captioner, datasets.read(dataset, root, split))
    options = captioner.bundle.decode_options
    candidates = decode_all(captioner, images, None, options)
    worths = cider_of(captioner, candidates, [example.captions for example in examples])
    values = [
        signals(row[0], feature)
        for row, feature in zip(candidates, images.reference_feature, strict=True)
    ]
    return (
        np.array([[one[name] for name in SIGNALS] for one in values]),
        np.array([row[0] for row in worths]),
    )


def _report(
    calibration: Calibration,
    table: NDArray[np.float64],
    worth: NDArray[np.float64],
    dataset: tuple[str, ...],
    split: str,
) -> Report:
    slopes = np.array([calibration.weights.get(name, 0.0) for name in SIGNALS])
    confidence = 1 / (1 + np.exp(-(calibration.bias + table @ slopes)))
    good = worth >= calibration.good
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [place == i for i in range(BINS) if (place == i).any()]
    bins = tuple(
        Bin(
            captions=int(group.sum()),
            confidence=_rounded(confidence[group].mean()),
            good=_rounded(good[group].mean()),
            cider=_rounded(worth[group].mean()),
        )
        for group in groups
    )
    accepted = confidence >= calibration.threshold
    return Report(
        dataset=dataset,
        split=split,
        captions=len(worth),
        spearman={
            name: _rounded(_spearman(values, worth))
            for name, values in (("confidence", confidence), *zip(SIGNALS, table.T, strict=True))
        },
        calibration_error=_rounded(
            sum(abs(confidence[g].mean() - good[g].mean()) * g.mean() for g in groups)
        ),
        threshold=calibration.threshold,
        accepted=_rounded(accepted.mean()),
        cider_accepted=_rounded(worth[accepted].mean() if accepted.any() else 0.0),
        cider_rest=_rounded(worth[~accepted].mean() if not accepted.all() else 0.0),
        bins=bins,
    )


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation; equal values share their mean rank."""
    ranks = []
    for values in (one, other):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts + 1) / 2)[place])
    if not all(values.std() for values in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _rounded(value: float) -> float:
    return round(float(value), 4)
