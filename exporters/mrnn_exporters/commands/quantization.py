"""``mrnn quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrnn_exporters.commands import DATASETS, data_sets

EXAMPLES = """\b
mrnn quantize flickr8k -o flickr8k-int8 --dataset flickr8k:DIR
mrnn quantize BUNDLE -o DIR --calibration photos/
"""


def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An installed model, or a bundle's folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The new bundle's folder.")
    ],
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos of the kind that it will see.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:DIR", help=f"Or those of a data set: {DATASETS}, and its folder."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of a --dataset that is a NAME alone."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="train|dev|test", help="Which part.")] = "dev",
    limit: Annotated[int, typer.Option(metavar="N", help="Take so many of the photos.")] = 200,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What users call it; else the old with -int8."),
    ] = None,
    agreement: Annotated[
        float,
        typer.Option(metavar="S", help="Share of likeliest words that must stay, at least."),
    ] = 0.9,
) -> None:
    """Make an int8 bundle, smaller and faster on a CPU.

    The encoder's convolutions and the product with the vocabulary become int8. Both models caption
    the photos; where they agree too little, nothing is written.
    """
    from mrnn_exporters import datasets, quantize
    from mrnn_exporters.datasets import Example
    from mrnn_runtime import UsageError
    from mrnn_runtime.build import find_images

    if (calibration is None) == (dataset is None):
        raise UsageError(
            "photos are needed, of one source",
            hint="give --calibration DIR, or --dataset NAME:DIR",
        )
    if limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}")
    sets = data_sets([dataset] if dataset else [], [root] if root else [])
    if sets:
        ((source, folder),) = sets
        examples = datasets.read(source, folder, split)
    else:
        examples = [Example(path, ()) for path in find_images([calibration or Path()])]
    examples = examples[:: max(1, len(examples) // limit)][:limit]
    bundle, comparison, kept = quantize.run(model, output, examples, name=name, agreement=agreement)
    figures = [
        *(("still fp32", part) for part in kept),
        ("size", f"{comparison.size:.0%} of the graphs' bytes"),
        ("speed", f"{comparison.speed:.2f} times, encoding and decoding on one thread"),
        (
            "agreement",
            f"{comparison.agreement:.1%} of the likeliest words, {comparison.photos} photos",
        ),
        ("captions", f"{comparison.same:.1%} word by word the same"),
    ]
    if comparison.cider:
        before, after = comparison.cider
        figures.append(("CIDEr", f"{after:.3f}, before {before:.3f}"))
    typer.echo(f"{bundle.folder}: {bundle.name}")
    for label, value in figures:
        typer.echo(f"{label:12}{value}")
