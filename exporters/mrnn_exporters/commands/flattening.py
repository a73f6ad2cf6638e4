"""``mrnn flatten``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
mrnn flatten flickr8k -o caption.onnx
mrnn flatten everyday -o caption.onnx --resize-inside --confidence
mrnn flatten BUNDLE -o caption.onnx --decoder greedy
mrnn verify caption.onnx
"""


def flatten(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An installed model, or a bundle's folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file, .onnx or .ort.")
    ],
    decoder: Annotated[
        str | None, typer.Option(metavar="greedy|beam", help="How to search; else the model's.")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(metavar="K", help="Hypotheses kept.")] = None,
    n_best: Annotated[int | None, typer.Option(metavar="M", help="Captions an image.")] = None,
    min_length: Annotated[int | None, typer.Option(metavar="N", help="Words at least.")] = None,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Words at most.")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(metavar="ALPHA", help="Score is log_prob / length^ALPHA.")
    ] = None,
    ban: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="A word that no caption has.")
    ] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Say how probable it is that a caption is good.")
    ] = False,
    resize_inside: Annotated[
        bool, typer.Option("--resize-inside", help="Take images of any size, scale them inside.")
    ] = False,
) -> None:
    """Make one ONNX graph of a model: encoder, search and words.

    Whatever runs ONNX then captions images without Python: a browser, Node, C++, C#, a phone. What
    is not given is as the model says; captions are those of `mrnn caption`.
    """
    from mrnn_exporters import flatten

    bundle = flatten.run(
        model,
        output,
        decoder=decoder,
        confidence=confidence,
        resize_inside=resize_inside,
        beam_size=beam_size,
        n_best=n_best,
        min_length=min_length,
        max_length=max_length,
        length_penalty=length_penalty,
        banned_words=ban or (),
    )
    typer.echo(f"{output}: {bundle.name} {bundle.version}, {output.stat().st_size / 1e6:.1f} MB")
