"""MS COCO's caption files, and the split files of Karpathy for COCO and both Flickr corpora."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from mrnn_exporters.datasets.common import ALL, Example, damaged, load_json, split_of
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The paper's sizes: 4,000 photos for validation and 1,000 for the test, out of val2014.
DEV, TEST = 4000, 1000


def coco(root: Path, split: str) -> list[Example]:
    """Read ``captions_train*.json`` and ``captions_val*.json``, or a single ``captions*.json``.

    They lie in ``root`` or its annotations/. With both files, train is the first one; dev and test
    are drawn from the second: photos in the order of the SHA-256 of their id, the first 4,000 (of a
    smaller file: 80 %) are dev, the next 1,000 (or the other 20 %) test. A single file names no
    split, see :func:`~mrnn_exporters.datasets.common.split_of`; the photo's id is the key.

    Raises:
        UsageError: no caption file or several that do not fit together, or a file is damaged.
    """
    files = sorted(
        p for folder in (root, root / "annotations") for p in folder.glob("captions*.json")
    )
    train = [p for p in files if p.name.startswith("captions_train")]
    val = [p for p in files if p.name.startswith("captions_val")]
    if len(train) == 1 and len(val) == 1:
        if split == "train":
            return list(_captions(root, train[0]).values())
        if split == ALL:
            return [e for path in (train[0], val[0]) for e in _captions(root, path).values()]
        examples = _captions(root, val[0])
        ranked = sorted(examples, key=lambda i: hashlib.sha256(i.encode()).digest())
        dev = min(DEV, len(ranked) * 4 // 5)
        part = ranked[:dev] if split == "dev" else ranked[dev : dev + TEST]
        return [examples[i] for i in sorted(part, key=list(examples).index)]
    if len(files) != 1:
        raise UsageError(
            f"{root}: holds {len(files)} files captions*.json",
            hint="wanted: one caption file, or captions_train*.json and captions_val*.json",
        )
    examples = _captions(root, files[0])
    return [examples[i] for i in split_of(root, split, examples)]


def _captions(root: Path, path: Path) -> Mapping[str, Example]:
    """Return id -> example for every photo that has captions, in the file's order."""
    document = load_json(path)
    year = path.stem.removeprefix("captions").removeprefix("_")
    places = [root / "images" / year, root / year, root / "images", root]
    names: dict[int, str] = {}
    sentences: dict[int, list[str]] = {}
    for i, image in enumerate(_records(path, document, "images")):
        match image:
            case {"id": int(key), "file_name": str(name)}:
                names[key] = name
                sentences[key] = []
            case _:
                raise damaged(path, f"images[{i}]", "expected id and file_name")
    for i, annotation in enumerate(_records(path, document, "annotations")):
        match annotation:
            case {"image_id": int(key), "caption": str(caption)} if key in names:
                if caption.strip():
                    sentences[key].append(caption.strip())
            case {"image_id": int(key), "caption": str()}:
                raise damaged(path, f"annotations[{i}]", f"image_id {key} is not in images")
            case _:
                raise damaged(path, f"annotations[{i}]", "expected image_id and caption")
    photos = next((p for p in places if any((p / n).is_file() for n in names.values())), places[2])
    return {
        str(key): Example(photos / names[key], tuple(captions), key)
        for key, captions in sentences.items()
        if captions
    }


def karpathy(root: Path, split: str) -> list[Example]:
    """Read ``dataset_*.json``; dev is its ``val``, and train includes its ``restval``.

    Photos lie in the record's ``filepath`` or, without one, in images/ or the corpus's own folder.

    Raises:
        UsageError: there is not exactly one such file, or it is damaged.
    """
    files = sorted(root.glob("dataset*.json"))
    if len(files) != 1:
        raise UsageError(
            f"{root}: holds {len(files)} files dataset*.json",
            hint="wanted: one of dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json",
        )
    wanted = {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}.get(split)
    path = files[0]
    chosen: list[tuple[str, tuple[str, ...], int | None]] = []
    for i, image in enumerate(_records(path, load_json(path), "images")):
        match image:
            case {"filename": str(name), "split": str(part), "sentences": list(sentences)}:
                captions = tuple(
                    str(s.get("raw", "")).strip() for s in sentences if isinstance(s, dict)
                )
            case _:
                raise damaged(path, f"images[{i}]", "expected filename, split and sentences")
        if not captions or not all(captions):
            raise damaged(path, f"images[{i}]", f"{name}: a sentence has no raw text")
        if wanted is None or part in wanted:
            inner, number = image.get("filepath"), image.get("cocoid")
            place = f"{inner}/{name}" if isinstance(inner, str) and inner else name
            chosen.append((place, captions, number if isinstance(number, int) else None))
    places = [
        root / p
        for p in ("images", "", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")
    ]
    photos = next((p for p in places if any((p / n).is_file() for n, *_ in chosen)), places[0])
    return [Example(photos / name, captions, number) for name, captions, number in chosen]


def _records(path: Path, document: Any, key: str) -> list[Any]:  # noqa: ANN401 - from JSON
    records = document.get(key) if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise damaged(path, 1, f"has no list {key!r}")
    return records
