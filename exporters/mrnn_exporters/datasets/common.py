"""What the readers share: the example, errors that name file and line, splits, token files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mrnn_runtime import UsageError
from mrnn_runtime.build import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mrnn_runtime import ImageSource

SPLITS = ("train", "dev", "test")
FOLDER = "name the folder of its files: --dataset NAME:DIR, or --root DIR"
ALL = "all"  # what a reader takes for a split that is all photos, those of no split too


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside of a tar: for whoever reads images, an open file.

    Attributes:
        archive: the tar, uncompressed.
        name: of the file, without folders.
        offset: where its bytes start.
        size: how many they are.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: the tar cannot be read.
        """
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class Example:
    """One photo and its reference captions.

    Attributes:
        path: the photo: a file, or one inside of a tar.
        captions: the sentences as the corpus has them, at least one.
        coco_id: COCO's number of the photo, where the corpus is COCO.
    """

    path: Path | Member
    captions: tuple[str, ...]
    coco_id: int | None = None

    @property
    def image(self) -> ImageSource:
        """The photo, for whoever reads images."""
        return as_image(self.path)


def as_image(photo: Path | Member) -> ImageSource:
    """Return a photo as ``read_image`` takes it."""
    return cast("ImageSource", photo)


def file_of(photo: Path | Member) -> Path:
    """Return the file that a photo is, or is in."""
    return photo.archive if isinstance(photo, Member) else photo


def damaged(path: Path, place: int | str, what: str) -> UsageError:
    """Return the error for a file that is not as it should be; ``place`` is a line or a record."""
    return UsageError(
        f"{path}:{place}: {what}", hint="the file is damaged or of another data set; fetch it again"
    )


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank.

    Raises:
        UsageError: the file is missing or not in that encoding.
    """
    number = 0
    try:
        with path.open(encoding=encoding) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}",
            hint=FOLDER,
        ) from error
    except UnicodeDecodeError as error:
        raise damaged(path, number + 1, f"not {encoding} text") from error


def load_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return the JSON document in ``path``.

    Raises:
        UsageError: the file is missing, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}",
            hint=FOLDER,
        ) from error
    except json.JSONDecodeError as error:
        raise damaged(path, error.lineno, f"not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start}", "not utf-8 text") from error


def first_of(root: Path, names: Sequence[str], *, folder: bool = False) -> Path:
    """Return the first of ``names`` that exists below ``root``.

    Raises:
        UsageError: there is none.
    """
    for name in names:
        path = root / name
        if path.is_dir() if folder else path.is_file():
            return path
    raise UsageError(
        f"{root}: holds none of {', '.join(names)}",
        hint=FOLDER,
    )


def held_out(key: str) -> str:
    """Return the split of a photo whose corpus names none: 80 % train, 10 % dev, 10 % test.

    The SHA-256 of the photo's id (or name) decides, so a photo stays in its split when the corpus
    grows or is reordered.
    """
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return {8: "dev", 9: "test"}.get(tenth, "train")


def split_of(root: Path, split: str, keys: Iterable[str]) -> list[str]:
    """Return those of ``keys`` that belong to ``split``, where the corpus itself names no split.

    Lists ``train.txt``, ``dev.txt`` (or ``val.txt``) and ``test.txt`` in ``root`` decide where they
    are there, one key a line, with or without the suffix of an image. A split without a list gets
    what :func:`held_out` gives it of the keys that no list names.

    Raises:
        UsageError: a list names a photo that the corpus does not have, or that another list names.
    """
    known = list(keys)
    if split == ALL:
        return known
    names = {_stem(key): key for key in known} | {key: key for key in known}
    listed: dict[str, str] = {}
    parts = set()
    for part, name in (("train", "train"), ("dev", "dev"), ("dev", "val"), ("test", "test")):
        path = root / f"{name}.txt"
        if part in parts or not path.is_file():
            continue
        parts.add(part)
        for number, line in lines(path):
            key = names.get(line) or names.get(_stem(line))
            if key is None:
                raise damaged(path, number, f"{line} has no captions in this data set")
            if listed.setdefault(key, part) != part:
                raise damaged(path, number, f"{line} is in the list of {listed[key]} as well")
    if split in parts:
        return [key for key, part in listed.items() if part == split]
    return [key for key in known if key not in listed and held_out(key) == split]


def _stem(key: str) -> str:
    """Return a key without the suffix of an image."""
    stem, dot, suffix = key.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else key


def token_file(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Read ``name.jpg#k<tab>caption`` lines, as both Flickr corpora have: name -> its captions.

    Raises:
        UsageError: a line is not of that form.
    """
    captions: dict[str, list[tuple[int, str]]] = {}
    for number, line in lines(path):
        label, tab, caption = line.partition("\t")
        name, mark, index = label.rpartition("#")
        if not (tab and mark and name and index.isdecimal() and caption.strip()):
            raise damaged(path, number, "expected name.jpg#number, a tab and a caption")
        captions.setdefault(name, []).append((int(index), caption.strip()))
    return {name: tuple(c for _, c in sorted(numbered)) for name, numbered in captions.items()}
