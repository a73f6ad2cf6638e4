"""How captions are written: as text, JSON lines or CSV, whole or not at all.

A record is all that is written about one image. It goes out in one call of the system, so that
whoever stops the program finds whole records.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mrnn_runtime.errors import ImageError, MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mrnn_runtime.types import Caption, CaptionCandidate

T = TypeVar("T")

_COLUMNS = ("path", "caption", "log_prob", "finished", "confidence", "error")


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


class Sidecar(StrEnum):
    """What is written beside each image."""

    TXT = "txt"
    JSON = "json"


def record(result: Caption, form: Format) -> str:
    """Return the lines of one image, each with its end; in text an error has none.

    CSV has one line an image, the others one a candidate or all candidates in it.
    """
    match form:
        case Format.TEXT:
            return "".join(f"{result.path}\t{one.caption}\n" for one in result.candidates)
        case Format.JSONL:
            return json.dumps(_object(result)) + "\n"
        case Format.CSV:
            if result.error is not None:
                return _csv((result.path, "", "", "", "", str(result.error)))
            finished = str(result.finished).lower()
            confidence = "" if result.confidence is None else result.confidence
            return _csv((result.path, result.text, result.log_prob, finished, confidence, ""))


def header(form: Format) -> str:
    """Return what stands before the first record."""
    return _csv(_COLUMNS) if form is Format.CSV else ""


def _csv(row: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _object(result: Caption) -> dict[str, object]:
    if result.error is not None:
        return {"path": result.path, "error": str(result.error)}
    found: dict[str, object] = {
        "path": result.path,
        "caption": result.text or None,  # without a word where it was kept back
        "log_prob": result.log_prob,
        "finished": result.finished,
        "confidence": result.confidence,
        "candidates": [_candidate(*pair) for pair in enumerate(result.candidates, 1)],
        "model": result.model,
        "provider": result.provider,
        "decoder": result.decoder,
        "reranker": result.reranker,
    }
    if result.neighbours:
        found["neighbours"] = [asdict(neighbour) for neighbour in result.neighbours]
    return found


def _candidate(rank: int, candidate: CaptionCandidate) -> dict[str, object]:
    found: dict[str, object] = {"caption": candidate.caption, "log_prob": candidate.log_prob}
    if candidate.rerank_score is not None:
        found |= {
            "score": candidate.rerank_score,
            "rank_before": candidate.rank,
            "rank": rank,
        }
    return found


def write_sidecar(result: Caption, kind: Sidecar) -> ImageError | None:
    """Write ``photo.jpg.txt`` or ``photo.jpg.json`` beside a photo; return why it failed."""
    target = sidecar(result.path, kind)
    text = json.dumps(_object(result)) if kind is Sidecar.JSON else result.text
    scratch = target.with_name(f".{target.name}.partial")
    try:
        scratch.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
        scratch.replace(target)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        return ImageError(
            f"{target} cannot be written: {error.strerror}", hint="check the folder's permissions"
        )
    return None


def sidecar(path: str, kind: Sidecar) -> Path:
    """Return the file that belongs beside a photo."""
    return Path(f"{path}.{kind.value}")


@contextmanager
def records_to(output: Path | None, *, append: bool = False) -> Iterator[Callable[[str], object]]:
    """Give a function that writes one record, to stdout or to a file.

    Args:
        output: the file, or None.
        append: whether to go on behind what the file holds.

    Raises:
        UsageError: the file cannot be opened.
        MrnnError: later, it cannot be written; it ends with the last whole record then.
    """
    if output is None:
        if isinstance(sys.stdout, TextIOWrapper):  # a file name may hold bytes that are no text
            sys.stdout.reconfigure(errors="surrogateescape")
        # typer.echo would find the terminal behind what Rich puts in its place.
        yield lambda text: print(text, end="", flush=True)
        return
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if append else os.O_TRUNC)
    try:
        file = os.open(output, mode, 0o666)
    except OSError as error:
        raise UsageError(
            f"cannot write {output}: {error.strerror}", hint="choose another --output"
        ) from error
    try:
        yield lambda text: _write(file, output, text)
    finally:
        os.close(file)


def _write(file: int, output: Path, text: str) -> None:
    rest = text.encode("utf-8", "surrogateescape")
    size = os.fstat(file).st_size
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError as error:
        with suppress(OSError):  # what is no file cannot be cut
            os.ftruncate(file, size)
        raise MrnnError(
            f"cannot write {output}: {error.strerror}",
            hint="make room, then go on with --resume",
        ) from error


def resume(output: Path, form: Format, images: Sequence[Path]) -> set[str]:
    """Leave the whole good records in a file of results, and return the paths that they are about.

    Records of errors and a last one that was cut off are taken out, to be made again; in text,
    where a record has no end of its own, the last one always.

    Args:
        output: the file; need not exist.
        form: the format that it must have.
        images: what the records are to be about.

    Raises:
        UsageError: the file cannot be read or written, or holds something else.
    """
    try:
        text = output.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UsageError(f"cannot read {output}: {error.strerror}") from error
    whole = text[: text.rfind("\n") + 1]
    try:
        if not whole and not _begins(text, form, images):
            raise ValueError(f"it begins with {text!r:.60}")
        kept = {
            Format.TEXT: _text_records,
            Format.JSONL: _json_records,
            Format.CSV: _csv_records,
        }[form](whole)
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{output} holds no results of --format {form}: {error}",
            hint="resume with the format that it was begun in",
        ) from error
    good = header(form) * bool(whole) + "".join(lines for _, lines in kept)
    if good != text:
        target = Path(os.path.realpath(output))
        scratch = target.with_name(f".{target.name}.partial")
        try:
            scratch.write_text(good, encoding="utf-8", errors="surrogateescape", newline="")
            shutil.copymode(target, scratch)
            scratch.replace(target)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error
        finally:
            scratch.unlink(missing_ok=True)
    return {path for path, _ in kept}


def _begins(text: str, form: Format, images: Sequence[Path]) -> bool:
    """Tell whether a text without a whole line may be what is left of a first record."""
    match form:
        case Format.TEXT:
            begun = text.encode("utf-8", "surrogateescape")  # which may end within a character
            return "\t" in text or any(os.fsencode(image).startswith(begun) for image in images)
        case Format.JSONL:
            start = json.dumps({"path": ""})[:-2]
            return text.startswith(start) or start.startswith(text)
        case Format.CSV:
            return header(form).startswith(text)


def _text_records(text: str) -> list[tuple[str, str]]:
    """Return path and line of each candidate, but for those of the last image."""
    found: list[tuple[str, str]] = []
    begun: list[str] = []
    for line in text.split("\n")[:-1]:
        begun.append(line + "\n")
        if "\t" in line:  # else it goes on: a path may hold line feeds, a caption does not
            found.append(("".join(begun).rpartition("\t")[0], "".join(begun)))
            begun = []
    if begun and not found:
        raise ValueError(f"no tab in {begun[0]!r:.60}")
    return [one for one in found if one[0] != found[-1][0]]


def _json_records(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.split("\n")[:-1]:
        fields = json.loads(line)
        if "error" not in fields:
            found.append((str(fields["path"]), line + "\n"))
    return found


def _csv_records(text: str) -> list[tuple[str, str]]:
    if text and not text.startswith(header(Format.CSV)):
        raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    if rows and len(rows[-1]) < len(_COLUMNS):  # cut off where a path has a line feed
        del rows[-1]
    return [(row[0], _csv(row)) for row in rows if not row[len(_COLUMNS) - 1]]


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM stop the program as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
