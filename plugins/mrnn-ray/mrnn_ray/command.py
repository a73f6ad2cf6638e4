"""``mrnn ray``: the options, and what they stand for."""

from __future__ import annotations

import hashlib
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from mrnn_ray.outputs import Output
    from mrnn_ray.parts import Source
    from mrnn_ray.recipe import Recipe
    from mrnn_ray.worker import Done
    from mrnn_runtime import Bundle

CAPTION_EXAMPLES = """\b
mrnn ray caption photos/ -o captions/
mrnn ray caption s3://bucket/photos -o s3://bucket/captions --address auto
mrnn ray caption "s3://bucket/shards/*.tar" -o captions/ --concurrency 8 --num-gpus 1
mrnn ray caption photos/ -o captions/ --resume
"""
INDEX_EXAMPLES = """\b
mrnn ray caption photos/ -o captions/ --embeddings
mrnn ray index captions/ -o gallery/
mrnn search "a dog on grass" --gallery gallery/
"""


def caption(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders, files, globs or URIs (s3://, gs://) of photos, of tars of photos "
            "(WebDataset) and of Parquet files; a .txt lists them, one a line.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR|URI", help="The folder of the results.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="A model that is on every node.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A running cluster; auto finds that of this machine. Else one is started here.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Workers, or between how many Ray chooses. Else what there is room for.",
            show_default=False,
        ),
    ] = None,
    num_cpus: Annotated[int, typer.Option(metavar="N", min=1, help="Cores of a worker.")] = 1,
    num_gpus: Annotated[
        float, typer.Option(metavar="G", min=0, help="Share of a GPU of a worker.")
    ] = 0,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda|tensorrt", help="Else cuda with --num-gpus, and cpu without."
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="parquet|jsonl", help="Of the results.")
    ] = "parquet",
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Also write what mrnn ray index needs; Parquet only."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Do what is missing in --output, and nothing twice.")
    ] = False,
    part: Annotated[
        int, typer.Option(metavar="N", min=1, help="Photos of one file of the results, about.")
    ] = 256,
    column: Annotated[
        str,
        typer.Option(metavar="NAME", help="Of Parquet files: bytes of photos, or their paths."),
    ] = "bytes",
    name_column: Annotated[
        str, typer.Option(metavar="NAME", help="Of Parquet files: what the photos are called.")
    ] = "path",
    decoder: Annotated[str | None, typer.Option(metavar="NAME", help="How to search.")] = None,
    beam_size: Annotated[
        int | None, typer.Option(metavar="K", help="Hypotheses kept per image.")
    ] = None,
    n_best: Annotated[int | None, typer.Option(metavar="N", help="Candidates per image.")] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who chooses among the candidates.")
    ] = None,
) -> None:
    """Caption photos on a Ray cluster, one row a photo.

    The columns are those of mrnn caption --format jsonl. A photo that cannot be read is a row with
    an error, and the exit code is 1.
    """
    from mrnn_ray import job, parts, worker
    from mrnn_ray.outputs import Format, Output
    from mrnn_ray.recipe import Recipe
    from mrnn_runtime import DecodeChanges

    if form not in set(Format):
        raise UsageError(f"unknown format {form!r}", hint=f"use {', '.join(Format)}")
    if embeddings and form != Format.PARQUET:
        raise UsageError("--embeddings are columns of Parquet", hint="leave out --format")
    recipe = Recipe(
        model=model,
        provider=provider or ("cuda" if num_gpus else "cpu"),
        cpus=num_cpus,
        decoder=decoder,
        reranker=reranker,
        changes=DecodeChanges(beam_size=beam_size, n_best=n_best),
        vectors=embeddings,
    )
    bundle = recipe.check()
    source, files = parts.open_source(inputs, column=column, name=name_column)
    cut = list(parts.cut(files, source, part))
    results = Output(*parts.open_place(output), Format(form))
    resources = job.Resources(
        concurrency=_bounds(concurrency), num_cpus=num_cpus, num_gpus=num_gpus
    )
    begun = results.begin(settings(recipe, bundle, source, results), resume=resume)
    left = worker.remaining(cut, results, begun)
    if resume:
        _note(f"{len(cut) - len(left)} of {len(cut)} parts are done")
    photos = failed = 0
    began = time.perf_counter()
    if left:
        job.connect(address)
        done = job.run(left, recipe=recipe, source=source, output=results, resources=resources)
        for number, one in enumerate(done, start=1):
            photos, failed = photos + one.photos, failed + one.failed
            _show(number, len(left), one)
    seconds = time.perf_counter() - began
    _note(f"{photos - failed} captioned, {failed} failed; {photos / seconds:.1f} images/s")
    if failed:
        raise typer.Exit(1)


def settings(recipe: Recipe, bundle: Bundle, source: Source, output: Output) -> dict[str, object]:
    """Return what the rows of a run depend on: two runs that differ in it do not mix."""
    return {
        "model": f"{bundle.name} {bundle.version}",
        # It holds the checksums of all files.
        "bundle": hashlib.sha256((bundle.folder / "bundle.json").read_bytes()).hexdigest(),
        "encoder": bundle.files[bundle.encoder.file].sha256,
        "decoder": recipe.decoder,
        "reranker": recipe.reranker,
        "options": dict(recipe.changes),
        "embeddings": recipe.vectors,
        "format": output.form,
        "column": source.column,
        "name_column": source.name,
    }


def index(
    captions: Annotated[
        str, typer.Argument(metavar="DIR|URI", help="What mrnn ray caption --embeddings wrote.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="The new gallery's folder.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="The model that wrote them.", show_default=False),
    ] = None,
) -> None:
    """Make a gallery for mrnn search --gallery of captions with their embeddings."""
    from mrnn_ray.gallery import write_gallery

    _note(f"{write_gallery(captions, output, model=model)} photos in {output}")


def _bounds(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    try:
        least, *most = (int(number) for number in text.split(":"))
        if least < 1 or len(most) > 1 or any(number < least for number in most):
            raise ValueError(text)
    except ValueError:
        raise UsageError(
            f"--concurrency {text}: expected N or MIN:MAX", hint="4, or 1:8, say"
        ) from None
    return (least, most[0]) if most else least


def _show(number: int, total: int, done: Done) -> None:
    if sys.stderr.isatty():
        print(f"\r{number} of {total} parts", end="\n" * (number == total), file=sys.stderr)


def _note(text: str) -> None:
    print(f"mrnn: {text}", file=sys.stderr)
