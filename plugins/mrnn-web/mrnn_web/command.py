"""``mrnn web``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
mrnn web flickr8k -o site/
python -m http.server --directory site
"""


def web(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An installed model, or a bundle's folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The site's folder.")
    ],
    decoder: Annotated[
        str | None, typer.Option(metavar="greedy|beam", help="How to search; else the model's.")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(metavar="K", help="Hypotheses kept.")] = None,
    n_best: Annotated[int, typer.Option(metavar="M", help="Captions shown for a photo.")] = 5,
) -> None:
    """Write a web page that captions photos inside the browser.

    The folder is all there is to it: any web server will do, nothing is loaded from elsewhere, and
    photos never leave the page. It works without a network after the first visit.
    """
    from mrnn_web.site import build

    bundle = build(model, output, decoder=decoder, beam_size=beam_size, n_best=n_best)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    typer.echo(f"{output}: {bundle.name} {bundle.version}, {size / 1e6:.0f} MB")
