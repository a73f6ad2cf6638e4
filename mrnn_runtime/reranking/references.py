"""References: photos with what people said about them, as a folder of numpy arrays.

It holds features to find neighbours by, the captions as n-grams, and in how many images each n-gram
occurs: everything that consensus needs, and nothing to read, unless captions are kept on request.

Letters in shapes: n images, c captions, d feature size, p positions, g n-grams.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.checksums import CheckedFolder, file_facts
from mrnn_runtime.bundle.fields import read_json
from mrnn_runtime.bundle.manifest import TOKENIZER
from mrnn_runtime.errors import BundleError
from mrnn_runtime.reranking.neighbours import DTYPES, Features, nearest
from mrnn_runtime.reranking.similarity import Frequencies, ReferenceCaptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.fields import Fields
    from mrnn_runtime.bundle.manifest import Bundle

FORMAT_VERSION = 1
MANIFEST = "references.json"
IMAGES = "images.json"
_MOST_BYTES = 2**25  # of images.json
# What float32 can compute distances with; features are far smaller.
_LARGEST_STEP, _LARGEST_SQUARE = 1e6, 1e20
_MOST_WORDS = 2**16  # of a caption; tables of that length are made
_HINT = "copy the references again, or build them again with mrnn index build"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """References that have been checked, or just built.

    Attributes:
        images: the images' ids, mostly names of files.
        features: of n images, [n, d].
        first_caption: unsigned [n + 1]; image i has the captions first_caption[i] up to
            first_caption[i + 1].
        first_ngram: unsigned [c + 1], likewise the n-grams of a caption.
        ngrams: uint64 [p], of each caption, sorted, the longest n-gram from every word on, as far
            as the model knows the words; see ``ngrams.longest_ngrams``.
        lengths: unsigned [c], words of each caption, unknown ones too.
        norms: float32 [c, 4], of the captions' weighted n-grams of n = 1..4 words.
        frequencies: in how many images an n-gram occurs.
    """

    images: tuple[str, ...]
    features: Features
    first_caption: NDArray[np.unsignedinteger[Any]]
    first_ngram: NDArray[np.unsignedinteger[Any]]
    ngrams: NDArray[np.uint64]
    lengths: NDArray[np.unsignedinteger[Any]]
    norms: NDArray[np.float32]
    frequencies: Frequencies

    def __len__(self) -> int:
        """Return n."""
        return len(self.images)

    def nearest(
        self, photos: NDArray[np.float32], k: int, *, leave_out: float = 0.0
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Find neighbours; see ``neighbours.nearest``."""
        return nearest(self.features, photos, k, leave_out=leave_out)

    def captions_of(self, rows: NDArray[np.int64]) -> ReferenceCaptions:
        """Return the captions of the images at ``rows``, int64 [r], in that order."""
        captions, _ = _ranges(self.first_caption, rows)
        places, owner = _ranges(self.first_ngram, captions)
        return ReferenceCaptions(
            ngrams=np.asarray(self.ngrams[places]),
            owner=owner,
            lengths=self.lengths[captions].astype(np.int64),
            norms=self.norms[captions].astype(np.float64),
        )


def _ranges(
    first: NDArray[np.unsignedinteger[Any]], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first[i] .. first[i + 1] - 1 for each i of ``rows``, one after the other.

    Returns:
        These numbers, int64, and the place in ``rows`` that each comes from, int64.
    """
    starts = first[rows].astype(np.int64)
    counts = first[rows + 1].astype(np.int64) - starts
    owner = np.repeat(np.arange(len(rows)), counts)
    before = np.cumsum(counts) - counts
    return np.arange(len(owner)) + (starts - before)[owner], owner


def save_references(
    references: References,
    folder: Path,
    bundle: Bundle,
    *,
    source: str,
    captions: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Write references into a new folder.

    Args:
        references: to be written.
        folder: must not exist, or be empty.
        bundle: the model whose features and words they are.
        source: what they were made from, one line.
        captions: the readable captions by image, or None to leave them out.

    Raises:
        BundleError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BundleError(f"{folder} is not empty", hint="name a new folder")
        for name, array in _arrays(references).items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        (folder / IMAGES).write_text(json.dumps(references.images), encoding="utf-8")
        if captions is not None:
            with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
                for image, said in captions.items():
                    file.write(json.dumps({"file": image, "captions": said}) + "\n")
        values = {
            "source": source,
            "images": len(references),
            "captions": len(references.lengths),
            "feature": {
                "name": "reference_feature",
                "size": references.features.numbers.shape[1],
                "dtype": references.features.numbers.dtype.name,
            },
            "model": {
                "name": bundle.name,
                "version": bundle.version,
                "encoder_sha256": bundle.files[bundle.encoder.file].sha256,
            },
            "vocabulary": {
                "size": bundle.vocabulary_size,
                "sha256": bundle.files[TOKENIZER].sha256,
            },
        }
        _checked(folder).write(values, lambda top: _check(top, bundle))
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error}", hint="name another") from error


def load_references(bundle: Bundle, folder: Path | None = None) -> References:
    """Open references, their arrays as memory maps, and check that all of it fits the model.

    Args:
        bundle: the model that will be reranked.
        folder: the references, or None for those in the bundle.

    Raises:
        BundleError: there are none, they are damaged, or belong to another model.
    """
    if folder is None:
        if bundle.references is None:
            raise BundleError(
                f"the model {bundle.name!r} ({bundle.folder}) has no references, which this"
                " reranker needs",
                hint="build some with mrnn index build, and name them with --references",
            )
        folder = bundle.folder / bundle.references
    checked = _checked(folder)
    root = checked.root
    if not (root / MANIFEST).is_file():
        raise BundleError(
            f"{folder} holds no references: it has no {MANIFEST}",
            hint="name a folder that mrnn index build made",
        )
    top = checked.read()
    _check(top, bundle)
    checked.check(file_facts(top, MANIFEST))
    try:
        references = _open(root)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{root} cannot be read: {error}", hint=_HINT) from error
    _check_arrays(references, top)
    if top.fields("model").text("encoder_sha256") != bundle.files[bundle.encoder.file].sha256:
        _log.warning("the references in %s were made with another encoder file", folder)
    return references


def _checked(folder: Path) -> CheckedFolder:
    return CheckedFolder(Path(os.path.realpath(folder)), MANIFEST, FORMAT_VERSION, _HINT)


def _arrays(references: References) -> dict[str, NDArray[Any]]:
    return {
        "features": references.features.numbers,
        "steps": references.features.steps,
        "squares": references.features.squares,
        "first_caption": references.first_caption,
        "first_ngram": references.first_ngram,
        "ngrams": references.ngrams,
        "lengths": references.lengths,
        "norms": references.norms,
        "frequent_ngrams": references.frequencies.ngrams,
        "frequencies": references.frequencies.counts,
    }


def _open(root: Path) -> References:
    def array(name: str) -> Any:  # noqa: ANN401 - whatever the file says; checked afterwards
        return np.load(root / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    images = read_json(root / IMAGES, _MOST_BYTES)
    if not isinstance(images, list):
        raise ValueError(f"{IMAGES} is no list")
    return References(
        images=tuple(images),
        features=Features(array("features"), array("steps"), array("squares")),
        first_caption=array("first_caption"),
        first_ngram=array("first_ngram"),
        ngrams=array("ngrams"),
        lengths=array("lengths"),
        norms=array("norms"),
        frequencies=Frequencies(len(images), array("frequent_ngrams"), array("frequencies")),
    )


def _check(top: Fields, bundle: Bundle) -> None:
    """Check that references belong to a model, by what their manifest says."""
    top.text("source")
    if not (top.integer("images") and top.integer("captions")):
        raise top.wrong("captions", "is 0: without captions nothing can be agreed with")
    feature = top.fields("feature")
    if feature.text("dtype") not in DTYPES:
        raise feature.wrong("dtype", f"must be one of {', '.join(DTYPES)}")
    tensors = {tensor.name: tensor for tensor in bundle.encoder.outputs}
    name, size = feature.text("name"), feature.integer("size", 1)
    width = tensors[name].shape[-1] if name in tensors else None
    if width != size:
        raise feature.wrong(
            "size",
            f"is {size}, but {name} of the model {bundle.name!r} has {width or 'no'} numbers",
        )
    vocabulary = top.fields("vocabulary")
    made_with = vocabulary.integer("size"), vocabulary.text("sha256")
    if made_with != (bundle.vocabulary_size, bundle.files[TOKENIZER].sha256):
        made_for = top.fields("model").text("name")
        raise top.wrong(
            "vocabulary",
            f"is not that of the model {bundle.name!r}: the references were built for {made_for!r}",
        )


def _check_arrays(references: References, top: Fields) -> None:
    """Check that the arrays have the types, shapes and numbers that belong together."""
    images, captions = top.integer("images"), top.integer("captions")
    feature = top.fields("feature")
    arrays = _arrays(references)
    positions, frequent = arrays["ngrams"].size, arrays["frequent_ngrams"].size
    real, whole = ("float32",), ("uint8", "uint16", "uint32", "uint64")
    # By name: types, shape, and the range of the numbers.
    wanted: dict[str, tuple[tuple[str, ...], tuple[int, ...], float, float]] = {
        "features": ((feature.text("dtype"),), (images, feature.integer("size")), -np.inf, np.inf),
        "steps": (real, (images,), 0, _LARGEST_STEP),
        "squares": (real, (images,), 0, _LARGEST_SQUARE),
        "first_caption": (whole, (images + 1,), 0, captions),
        "first_ngram": (whole, (captions + 1,), 0, positions),
        "ngrams": (("uint64",), (positions,), 0, np.inf),
        "lengths": (whole, (captions,), 1, _MOST_WORDS),
        "norms": (real, (captions, 4), 0, np.inf),
        "frequent_ngrams": (("uint64",), (frequent,), 0, np.inf),
        "frequencies": (whole, (frequent,), 1, images),
    }
    fits = {
        name: arrays[name].dtype.name in dtypes
        and arrays[name].shape == shape
        and _within(arrays[name], *limits)
        for name, (dtypes, shape, *limits) in wanted.items()
    }
    for name, last, rises in (
        ("first_caption", captions, np.greater),
        ("first_ngram", positions, np.greater_equal),
        ("frequent_ngrams", None, np.greater),
    ):
        array = arrays[name]
        fits[name] = fits[name] and bool(rises(array[1:], array[:-1]).all())
        if last is not None:
            fits[name] = fits[name] and (int(array[0]), int(array[-1])) == (0, last)
    # They are shown to users.
    names = references.images
    fits["images"] = len(names) == images and all(
        isinstance(name, str) and name.isprintable() for name in names
    )
    if wrong := [name for name, fine in fits.items() if not fine]:
        raise top.wrong("files", f"do not fit together: {', '.join(wrong)}")


def _within(numbers: NDArray[Any], least: float, most: float) -> bool:
    """Tell whether all numbers are finite and in a range; few of them are in memory at a time."""
    if numbers.dtype.kind in "iu" and most == np.inf:
        return True  # whatever they are, so they need not be read
    rows = max(1, 2**20 // max(1, numbers[:1].size))
    for start in range(0, len(numbers), rows):
        part = numbers[start : start + rows]
        low, high = float(part.min()), float(part.max())  # either is NaN where one number is
        if not (least <= low and high <= most and low > -np.inf and high < np.inf):
            return False
    return True
