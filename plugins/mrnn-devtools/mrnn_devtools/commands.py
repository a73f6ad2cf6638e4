"""``mrnn bench`` and ``mrnn plugins new``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_devtools.scaffold import PartKind, write_package

if TYPE_CHECKING:
    from mrnn_devtools.bench import BenchReport

EXAMPLES = """\b
mrnn plugins new zigzag --kind decoder
mrnn plugins new street-scenes --kind model --output ../street-scenes
"""


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, or a bundle's folder.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos; without it, made-up ones.")
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Take the first N photos of the folder only.")
    ] = 100,
    provider: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|tensorrt", help="Where to run. Only auto may fall back."
        ),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="For all photos at once; by default one a core.")
    ] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", help="CPU threads of each graph; 0 is one a core.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(metavar="B", help="Images that a worker works on together.")
    ] = 4,
    decoder: Annotated[str | None, typer.Option(metavar="NAME", help="How to search.")] = None,
    beam_size: Annotated[
        int | None, typer.Option(metavar="K", help="Hypotheses kept per image.")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who chooses among them; or none.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="The figures are medians of so many runs.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Measure how fast a model captions, and where the time goes.

    Photos are captioned one at a time, with a clock at every stage, and then all at once. What is
    not given is as the model has it.
    """
    from dataclasses import asdict

    from mrnn_devtools.bench import bench as measure
    from mrnn_runtime import load
    from mrnn_runtime.build import cores, find_images

    report = measure(
        load(model, provider=provider, threads=threads),
        find_images([images])[:limit] if images else (),
        workers=cores() if workers is None else workers,
        batch_size=batch_size,
        threads=threads,
        decoder=decoder,
        beam_size=beam_size,
        reranker=reranker,
        repeats=repeats,
    )
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=1))
    else:
        _show(report)


def _show(report: BenchReport) -> None:
    total = sum(report.stages.values())
    chosen = f", {report.reranker}" if report.reranker else ""
    threads = report.threads or "all"
    lines = [
        ("model", f"{report.model}, {report.precision}, {report.decoder}{chosen}"),
        ("provider", f"{report.provider}, threads {threads}"),
        ("photos", f"{report.photos}, {report.repeats} times"),
        *((name, f"{ms:8.2f} ms  {ms / total:4.0%}") for name, ms in report.stages.items()),
        ("photo", f"{report.p50:8.2f} ms  p50, one at a time"),
        ("", f"{report.p95:8.2f} ms  p95"),
        (
            "throughput",
            f"{report.captions_a_second:8.1f} captions/s, workers {report.workers},"
            f" batch size {report.batch_size}",
        ),
        ("memory", f"{report.peak_mb:8.0f} MB peak" if report.peak_mb else "not known here"),
        ("versions", ", ".join(f"{name} {one}" for name, one in report.versions.items())),
    ]
    for label, text in lines:
        typer.echo(f"{label:12}{text}")


def new(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="What users will type, for example zigzag; the package becomes mrnn-NAME.",
            show_default=False,
        ),
    ],
    kind: Annotated[PartKind, typer.Option(help="What it brings.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make. Without it: mrnn-NAME, here."),
    ] = None,
) -> None:
    """Write a package for a plugin of your own; it works as it is.

    It holds one component, a test that the component keeps its contract, and settings for ruff and
    mypy. Change what it does, and let the test tell whether it still fits.
    """
    folder = write_package(name, kind, output)
    typer.echo(folder)
    typer.echo(f'next: cd {folder}; pip install -e ".[test]"; pytest', err=True)
