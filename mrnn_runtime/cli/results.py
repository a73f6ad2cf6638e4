"""How captions are written: as text, JSON lines or CSV.

A record is all that is written about one image. It goes out in one call of the system, so that
whoever stops the program finds whole records.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from contextlib import contextmanager, suppress
from enum import StrEnum
from io import TextIOWrapper
from typing import TYPE_CHECKING

from mrnn_runtime.cli.output import one_line
from mrnn_runtime.errors import MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mrnn_runtime.types import Caption

COLUMNS = ("path", "caption", "log_prob", "finished", "confidence", "error")


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


_SUFFIXES = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV}


def format_of(output: Path | None) -> Format:
    """Return the format that the name of a file stands for: text where it says nothing."""
    return _SUFFIXES.get(output.suffix.lower(), Format.TEXT) if output else Format.TEXT


def record(result: Caption, form: Format) -> str:
    """Return the lines of one image, each with its end; in text an error has none.

    Text has one line a candidate, whatever the name of its image, the others one line an image.
    """
    match form:
        case Format.TEXT:
            path = one_line(result.path)
            return "".join(f"{path}\t{one.caption}\n" for one in result.candidates)
        case Format.JSONL:
            return json.dumps(result.record()) + "\n"
        case Format.CSV:
            if result.error is not None:
                return csv_row((result.path, "", "", "", "", str(result.error)))
            finished = str(result.finished).lower()
            confidence = "" if result.confidence is None else result.confidence
            return csv_row((result.path, result.text, result.log_prob, finished, confidence, ""))


def header(form: Format) -> str:
    """Return what stands before the first record."""
    return csv_row(COLUMNS) if form is Format.CSV else ""


def csv_row(row: Sequence[object]) -> str:
    """Return one record of CSV, with its end, a line feed."""
    text = io.StringIO()
    # Of the characters that end a line, the writer quotes only those of its own end of lines.
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue()[:-2] + "\n"


@contextmanager
def records_to(
    output: Path | None, *, append: bool = False, goes_on: bool = False
) -> Iterator[Callable[[str], object]]:
    """Give a function that writes one record, to stdout or to a file, as UTF-8.

    Args:
        output: the file, or None.
        append: whether to go on behind what the file holds.
        goes_on: whether --resume could go on with the file, so that an error may say so.

    Raises:
        UsageError: the file cannot be opened.
        MrnnError: stdout is closed; or later, a record cannot be written. The file ends with the
            last whole record then.
    """
    if output is None:
        if sys.stdout is None:
            raise MrnnError("stdout is closed, so results would be lost", hint="use --output")
        if isinstance(sys.stdout, TextIOWrapper):  # a file name may hold bytes that are no text
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        # typer.echo would find the terminal behind what Rich puts in its place.
        yield lambda text: print(text, end="", flush=True)
        return
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if append else os.O_TRUNC)
    try:
        file = os.open(output, mode, 0o666)
    except OSError as error:
        advice = "make the folder first, or " if isinstance(error, FileNotFoundError) else ""
        raise UsageError(
            f"cannot write {output}: {error.strerror}", hint=f"{advice}choose another --output"
        ) from error
    advice = "make room, then go on with --resume" if goes_on else "make room"
    try:
        yield lambda text: _write(file, output, text, advice)
    finally:
        os.close(file)


def _write(file: int, output: Path, text: str, advice: str) -> None:
    rest = text.encode("utf-8", "surrogateescape")
    size = os.fstat(file).st_size
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError as error:
        with suppress(OSError):  # what is no file cannot be cut
            os.ftruncate(file, size)
        raise MrnnError(f"cannot write {output}: {error.strerror}", hint=advice) from error
