"""``mrnn caption``."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import output as speech
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mrnn_runtime.types import Caption


EXAMPLES = """\b
mrnn caption dog.jpg
mrnn caption photos/ --format jsonl --output captions.jsonl
mrnn caption photos/ --decoder greedy --ban man --ban woman
mrnn caption dog.jpg --beam-size 10 --n-best 3
"""


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSONL = "jsonl"


def caption(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Images, and folders that are walked recursively.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="An installed model, or the folder of a bundle. Without it: the only installed "
            "model, else the one that MRNN_MODEL names, else flickr8k.",
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda", help="Where to run. Only auto may fall back, and it says so."
        ),
    ] = "auto",
    decoder: Annotated[str | None, typer.Option(metavar="NAME", help="How to search.")] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who chooses among the candidates; or none.")
    ] = None,
    beam_size: Annotated[
        int | None, typer.Option(metavar="K", help="Hypotheses kept per image.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="N", help="Words per caption, at most.")
    ] = None,
    min_length: Annotated[
        int | None, typer.Option(metavar="N", help="Words per caption, at least.")
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(metavar="A", help="Rank by log_prob / length ** A; 0 is the plain sum."),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None, typer.Option(metavar="N", help="No n-gram of this size twice; 0 allows all.")
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="A word that no caption contains; may be repeated."),
    ] = None,
    n_best: Annotated[
        int | None, typer.Option(metavar="N", help="Candidates per image, at most.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="B", help="Images per call of the encoder; changes no caption.")
    ] = 4,
    threads: Annotated[
        int, typer.Option(metavar="N", help="CPU threads of each graph; 0 chooses.")
    ] = 0,
    form: Annotated[
        Format,
        typer.Option("--format", help="text: path, tab, caption. jsonl: one object an image."),
    ] = Format.TEXT,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results to a file.")
    ] = None,
) -> None:
    """Caption images, in order, one result an image.

    An image that cannot be read is named on stderr (jsonl: gets an error record), the others go
    on, and the exit code is 1. Options that are not given are those of the model.
    """
    from mrnn_runtime.captioner import load
    from mrnn_runtime.images import find_images

    images = find_images(paths)
    captions = load(model, provider=provider, threads=threads).caption(
        images,
        batch_size=batch_size,
        decoder=decoder,
        reranker=reranker,
        beam_size=beam_size,
        n_best=n_best,
        min_length=min_length,
        max_length=max_length,
        length_penalty=length_penalty,
        no_repeat_ngram=no_repeat_ngram,
        banned_words=ban or (),
    )
    show = _show_json if form is Format.JSONL else _show_text
    failed = 0
    with _results(output) as write:
        for result in _watched(captions, len(images)):
            show(result, write)
            failed += result.error is not None
    if failed:
        speech.note(f"{failed} of {len(images)} images failed")
        raise typer.Exit(speech.SOME_IMAGES_FAILED)


def _show_text(result: Caption, write: Callable[[str], object]) -> None:
    if result.error is not None:
        speech.note(f"error: {result.error}")
    for candidate in result.candidates:
        write(f"{result.path}\t{candidate.caption}")


def _show_json(result: Caption, write: Callable[[str], object]) -> None:
    record: dict[str, object]
    if result.error is not None:
        record = {"path": result.path, "error": result.error}
    else:
        record = {
            "path": result.path,
            "caption": result.text,
            "log_prob": result.log_prob,
            "finished": result.finished,
            "candidates": [
                {"caption": candidate.caption, "log_prob": candidate.log_prob}
                for candidate in result.candidates
            ],
            "model": result.model,
            "provider": result.provider,
            "decoder": result.decoder,
        }
    write(json.dumps(record))


@contextmanager
def _results(output: Path | None) -> Iterator[Callable[[str], object]]:
    """Give a function that writes one line of results, to stdout or to a file.

    Raises:
        UsageError: the file cannot be written.
    """
    if output is None:
        if isinstance(sys.stdout, TextIOWrapper):  # a file name may hold bytes that are no text
            sys.stdout.reconfigure(errors="surrogateescape")
        # typer.echo would find the terminal behind what Rich puts in its place.
        yield lambda line: print(line, flush=True)
        return
    try:
        file = output.open("w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(
            f"cannot write {output}: {error.strerror}", hint="choose another --output"
        ) from error
    with file:
        yield lambda line: file.write(line + "\n")


def _watched(captions: Iterator[Caption], total: int) -> Iterator[Caption]:
    """Pass captions on, with a progress bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield from captions
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    # On a terminal that shows both streams, results must go above the bar; in a pipe, untouched.
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        yield from bar.track(captions, total=total)
