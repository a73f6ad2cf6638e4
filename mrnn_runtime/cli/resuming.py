"""What a file of results holds already, so that a run goes on behind it.

A file is touched only if all of it is ours: every record has the marks of one that we write, and
what follows the last whole one is how a record begins.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.atomic import replace_file
from mrnn_runtime.cli.results import COLUMNS, Format, csv_row, header
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ERROR = {"path", "error"}
_CAPTION = {
    *("path", "caption", "log_prob", "finished", "candidates"),
    *("model", "provider", "decoder", "reranker"),
}
_BEGINNING = '{"path": "'


def resume(output: Path, form: Format, option: str) -> set[str]:
    """Leave the whole good records in a file of results, and return the paths that they are about.

    Records of errors and a last one that was cut off are taken out, to be made again.

    Args:
        output: the file; need not exist.
        form: the format that it must have.
        option: which asks for it.

    Raises:
        UsageError: the format is text, or the file cannot be read or written, is no file, or holds
            something else; then it is left alone.
    """
    if form is Format.TEXT:
        raise UsageError(
            f"{option} does not go on with text, where a record has no end of its own",
            hint="use --format jsonl or csv, or a name such as captions.jsonl",
        )
    if output.exists() and not output.is_file():
        raise UsageError(
            f"{output} is no file that {option} can read", hint="choose another --output"
        )
    try:
        text = output.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UsageError(f"cannot read {output}: {error.strerror}") from error
    whole = text[: text.rfind("\n") + 1]
    read = _json_records if form is Format.JSONL else _csv_records
    try:
        kept = [(path, record) for path, record, is_good in read(whole, text) if is_good]
    except (ValueError, RecursionError, csv.Error) as error:
        raise UsageError(
            f"{output} holds no results of --format {form}: {error}",
            hint="go on with the format that it was begun in",
        ) from error
    good = header(form) * bool(whole) + "".join(record for _, record in kept)
    if good != text:
        try:
            replace_file(output, good.encode("utf-8", "surrogateescape"), through=True)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error
    return {path for path, _ in kept}


def _json_records(whole: str, text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield path and line of each record, and whether it is a caption.

    Raises:
        ValueError: something is no record of ours.
        RecursionError: something is nested deeply, so it is none of ours.
    """
    for line in whole.split("\n")[:-1]:
        fields: Any = json.loads(line)
        keys = set(fields) if isinstance(fields, dict) else set()
        if not (keys == _ERROR or keys >= _CAPTION) or not isinstance(fields["path"], str):
            raise ValueError(f"no record of mrnn caption: {line!r:.60}")
        yield fields["path"], line + "\n", keys >= _CAPTION
    rest = text[len(whole) :]
    if not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise ValueError(f"it ends with {rest!r:.60}")


def _csv_records(whole: str, text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield path and line of each record, and whether it is a caption.

    Raises:
        ValueError: something is no record of ours.
        csv.Error: likewise.
    """
    first = header(Format.CSV)
    if not (text.startswith(first) or first.startswith(text)):
        raise ValueError(f"its first line is not {','.join(COLUMNS)}")
    rows = list(csv.reader(io.StringIO(whole, newline=""), strict=False))[1:]
    if rows and len(rows[-1]) == 1:  # cut off where a path has a line feed
        del rows[-1]
    for row in rows:
        if len(row) != len(COLUMNS):
            raise ValueError(f"no record of mrnn caption: {row!r:.60}")
        path, caption, log_prob, finished, _, error = row
        if not error:
            float(log_prob)
        if (finished in ("true", "false")) == bool(error) or (error and (caption or log_prob)):
            raise ValueError(f"no record of mrnn caption: {row!r:.60}")
        yield path, csv_row(row), not error
