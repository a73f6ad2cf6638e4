"""``mrnn index build`` and ``mrnn index add``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrnn_exporters.commands import DATASETS, data_sets

EXAMPLES = """\b
mrnn index build --model BUNDLE --dataset flickr8k:DIR --output REFERENCES
mrnn index add REFERENCES BUNDLE --reranker consensus-cider --neighbours 60 --votes 125 --default
"""


def build(
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="An installed model, or a bundle's folder.")
    ],
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:DIR",
            help=f"{DATASETS}, and the folder of its own files; may be repeated.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="REFERENCES", help="The new folder.")
    ],
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="The folder of a --dataset that is a NAME alone."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="train|dev|test", help="Which part.")] = "train",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Take so many of the photos, evenly spread."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="int8|float16", help="How features are kept.")
    ] = "int8",
    keep_captions: Annotated[
        bool, typer.Option("--keep-captions", help="Keep the captions as text too.")
    ] = False,
    provider: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|tensorrt", help="Where to run. Only auto may fall back."
        ),
    ] = "auto",
) -> None:
    """Build references from photos with captions.

    Consensus reranking needs them: features of the photos, the captions as n-grams, and how many
    photos each n-gram belongs to. Never build them of photos that you will measure on.
    """
    from mrnn_exporters import references

    built = references.build(
        model,
        output,
        sets=data_sets(dataset, root or ()),
        split=split,
        limit=limit,
        dtype=dtype,
        keep_captions=keep_captions,
        provider=provider,
    )
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    typer.echo(f"{output}: {len(built)} photos, {len(built.lengths)} captions, {size:.1f} MB")


def add(
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="A folder that mrnn index build made.")
    ],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that gets them.")],
    reranker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The reranker that --neighbours and --votes are for."),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--neighbours", metavar="K", help="Its default number of reference images."),
    ] = None,
    m: Annotated[
        int | None,
        typer.Option("--votes", metavar="M", help="Its default number of similarities."),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Rerank by it unless told otherwise.")
    ] = False,
) -> None:
    """Put references into a bundle, in place of those that it has."""
    from mrnn_exporters.references import add as add_references

    add_references(references, bundle, reranker=reranker, k=k, m=m, default=default)
