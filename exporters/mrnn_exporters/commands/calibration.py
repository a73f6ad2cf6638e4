"""``mrnn calibrate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mrnn_exporters.commands import DATASETS, data_sets

EXAMPLES = """\b
mrnn calibrate BUNDLE --dataset flickr8k:DIR --dataset coco:DIR
mrnn calibrate BUNDLE --dataset coco:DIR --split test --check --json confidence.json
"""


def calibrate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:DIR",
            help=f"{DATASETS}, and the folder of its own files; may be repeated.",
        ),
    ],
    split: Annotated[
        str, typer.Option(metavar="dev|test", help="Photos that it was not trained on.")
    ] = "dev",
    good: Annotated[
        float | None,
        typer.Option(metavar="C", help="A caption is good from this CIDEr-D on. Else 0.5."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", help="Below it a caption is better not shown. Else 0.5."),
    ] = None,
    signal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="per_word, length or image; may be repeated. Else all three."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Measure the bundle's confidence, and write nothing.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to a file.")
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|tensorrt", help="Where to run. Only auto may fall back."
        ),
    ] = "auto",
) -> None:
    """Fit a model's confidence on captioned photos.

    How a caption's confidence follows from its search is written into the bundle.
    """
    from mrnn_exporters import calibrate as calibration
    from mrnn_runtime import UsageError

    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"{json_file.parent}: no such folder", hint="choose another --json")
    fit: dict[str, Any] = {"good": good, "threshold": threshold, "names": signal or None}
    fit = {name: value for name, value in fit.items() if value is not None}
    if check and fit:
        raise UsageError(
            "--check measures the confidence as it was fitted",
            hint="leave out --good, --threshold and --signal, or --check",
        )
    report = calibration.run(
        bundle,
        data_sets(dataset, ()),
        split=split,
        check=check,
        provider=provider,
        **fit,
    )
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    typer.echo(f"rank correlation with CIDEr-D: {report.spearman}")
    typer.echo(f"calibration error: {report.calibration_error:.3f}")
    typer.echo(
        f"confidence >= {report.threshold:g}: {report.accepted:.0%} of {report.captions} captions,"
        f" CIDEr-D {report.cider_accepted:.3f}; the rest {report.cider_rest:.3f}"
    )
    for one in report.bins:
        typer.echo(
            f"confidence {one.confidence:.2f}: {one.captions} captions, {one.good:.0%} good,"
            f" CIDEr-D {one.cider:.3f}"
        )
