"""How captions are written: as text or JSON lines, with a progress bar where somebody watches."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from io import TextIOWrapper
from typing import TYPE_CHECKING, TypeVar

from mrnn_runtime.cli import output as speech
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mrnn_runtime.types import Caption, CaptionCandidate

T = TypeVar("T")


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSONL = "jsonl"


def show_text(result: Caption, write: Callable[[str], object]) -> None:
    """Write one line a candidate, and an error to stderr."""
    if result.error is not None:
        speech.note(f"error: {result.error}")
    for candidate in result.candidates:
        write(f"{result.path}\t{candidate.caption}")


def show_json(result: Caption, write: Callable[[str], object]) -> None:
    """Write one JSON object, also for an error."""
    record: dict[str, object]
    if result.error is not None:
        record = {"path": result.path, "error": result.error}
    else:
        record = {
            "path": result.path,
            "caption": result.text,
            "log_prob": result.log_prob,
            "finished": result.finished,
            "candidates": [_candidate(*pair) for pair in enumerate(result.candidates, 1)],
            "model": result.model,
            "provider": result.provider,
            "decoder": result.decoder,
            "reranker": result.reranker,
        }
        if result.neighbours:
            record["neighbours"] = [asdict(neighbour) for neighbour in result.neighbours]
    write(json.dumps(record))


def _candidate(rank: int, candidate: CaptionCandidate) -> dict[str, object]:
    record: dict[str, object] = {"caption": candidate.caption, "log_prob": candidate.log_prob}
    if candidate.rerank_score is not None:
        record |= {
            "score": candidate.rerank_score,
            "rank_before": candidate.rank,
            "rank": rank,
        }
    return record


@contextmanager
def lines_to(output: Path | None) -> Iterator[Callable[[str], object]]:
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


def watched(things: Iterator[T], total: int) -> Iterator[T]:
    """Pass things on, with a progress bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield from things
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
        yield from bar.track(things, total=total)
