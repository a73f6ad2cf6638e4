"""The fields of a JSON object, read so that every complaint names the file and the field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from mrnn_runtime.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

_MOST_LETTERS = 10_000


def read_json(path: Path, most: int) -> object:
    """Parse a JSON file of at most ``most`` bytes; what it holds takes at most some 12 times that.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or too large, or nested too deeply.
    """
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size} bytes, and at most {most} are read")
    data = path.read_bytes()
    # Three bytes of JSON become an object of 64.
    if data.count(b"{") + data.count(b"[") > 2**16 + size // 16:
        raise ValueError("it holds too many objects and lists")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class Fields:
    """A JSON object that knows in which file and where in it it stands.

    Every method but ``wrong`` raises BundleError where the field is missing or of another kind.
    """

    __slots__ = ("_hint", "_path", "_where", "values")

    def __init__(self, values: object, path: Path, where: str = "", *, hint: str = "") -> None:
        """Wrap a value of the file ``path`` that stands at ``where``; ``hint`` says what to do."""
        self._path, self._where, self._hint = path, where, hint
        if not isinstance(values, dict):
            raise self.wrong("", "must be an object")
        self.values: dict[str, Any] = values

    def wrong(self, key: str, complaint: str) -> BundleError:
        """Return the error that says what is the matter with a field."""
        return BundleError(
            f"{self._path}: {self._at(key) or 'the top level'} {complaint}",
            hint=self._hint,
        )

    def take(self, key: str, kind: type[T], words: str) -> T:
        """Return a field of one type; JSON's true and false are no numbers."""
        if key not in self.values:
            raise self.wrong(key, "is missing")
        value = self.values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(key, f"must be {words}, not {value!r:.60}")
        return value

    def text(self, key: str) -> str:
        """Return a text of one line that is not empty."""
        value = self.take(key, str, "a text")
        if not 0 < len(value) <= _MOST_LETTERS or not value.isprintable():
            raise self.wrong(key, f"must be one line of 1 to {_MOST_LETTERS} letters")
        return value

    def integer(self, key: str, least: int = 0) -> int:
        """Return a whole number of at least ``least``."""
        value = self.take(key, int, "a whole number")
        if value < least:
            raise self.wrong(key, f"must be at least {least}, not {value}")
        return value

    def number(self, key: str) -> float:
        """Return a number."""
        value = self.take(key, object, "a number")
        if not isinstance(value, int | float):
            raise self.wrong(key, f"must be a number, not {value!r:.60}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of different texts."""
        names = self.take(key, list, "a list of names")
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise self.wrong(key, "must be a list of different names")
        return tuple(names)

    def fields(self, key: str) -> Fields:
        """Return an object."""
        value = self.take(key, dict, "an object")
        return Fields(value, self._path, self._at(key), hint=self._hint)

    def each(self, key: str) -> list[Fields]:
        """Return a list of objects."""
        values = enumerate(self.take(key, list, "a list"))
        where = self._at(key)
        return [Fields(v, self._path, f"{where}[{i}]", hint=self._hint) for i, v in values]

    def _at(self, key: str) -> str:
        return ".".join(part for part in (self._where, key) if part)
