"""The images that a call means: found in folders, and read as a batch for the encoder."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.errors import ImageError, UsageError
from mrnn_runtime.images import checked, is_single, name_of, read_image, wrong_kind

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from mrnn_runtime.types import ImageSource, Preprocess

    Claims = Callable[[], AbstractContextManager[Callable[[int], None] | None]]

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True, slots=True, eq=False)
class NamedImage:
    """One image that is to be read.

    Attributes:
        name: its path; for one in memory the name that it brings, else its place in the call.
        source: where its pixels are; a path is a file, never a folder.
    """

    name: str
    source: ImageSource


def list_images(
    images: ImageSource | Iterable[ImageSource], *, missing_ok: bool = False
) -> list[NamedImage]:
    """Return every single image that is meant; a folder stands for the images below it.

    Args:
        images: one image, or several of any kinds; see ``ImageSource``.
        missing_ok: as ``find_images`` has it.

    Raises:
        UsageError: something is no image of a kind that is taken, or as ``find_images`` has it.
    """
    several: Any = [images] if is_single(images) else images
    if not hasattr(several, "__iter__"):
        raise wrong_kind(images)
    named: list[NamedImage] = []
    for place, image in enumerate(several):
        if isinstance(image, str | Path):
            files = find_images([image], missing_ok=missing_ok)
            named += [NamedImage(str(file), file) for file in files]
        else:
            named.append(NamedImage(name_of(image) or f"images[{place}]", checked(image)))
    return named


def find_images(
    paths: Iterable[str | Path],
    *,
    missing_ok: bool = False,
    skipped: Counter[str] | None = None,
) -> list[Path]:
    """Return the images that the paths stand for, in the order of the paths.

    A file stands for itself, whatever its name. A folder stands for the files below it that have
    one of IMAGE_SUFFIXES, sorted; hidden ones are left out, and links to folders are not followed.
    A folder below it that cannot be read stands for itself; reading it will say why.

    Args:
        paths: files and folders.
        missing_ok: whether a path that is neither, or a folder that cannot be read, stands for
            itself as well.
        skipped: is given the number of files in folders that are left out for their suffix, by
            suffix. What belongs to a photo, such as photo.jpg.txt or photo.xmp, does not count.

    Raises:
        UsageError: a path does not exist, a folder cannot be read or holds no image.
    """
    images: list[Path] = []
    for path in map(Path, paths):
        # Unlike the methods of a Path, these take what may not be looked at for what is not there.
        if os.path.isdir(path):
            images.extend(_walk(path, missing_ok, {} if skipped is None else skipped))
        elif missing_ok or os.path.isfile(path):
            images.append(path)
        else:
            what = "is neither a file nor a folder" if os.path.exists(path) else "does not exist"
            raise UsageError(f"{path} {what}", hint="name image files, or folders of them")
    return images


def _walk(folder: Path, missing_ok: bool, skipped: dict[str, int]) -> list[Path]:
    images: list[Path] = []
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if place is folder and not missing_ok:
                raise UsageError(
                    f"{folder} cannot be read: {error.strerror}", hint="check its permissions"
                ) from error
            images.append(place)
            continue
        folders = {entry.name for entry in listed if _is_folder(entry)}
        waiting += [place / name for name in folders if not os.path.islink(place / name)]
        files = [entry.name for entry in listed if entry.name not in folders]
        photos = {name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES}
        images += [place / name for name in photos]
        for other in map(Path, set(files) - photos):
            suffix = other.suffix.lower()
            if other.stem not in photos and suffix != ".xmp":
                skipped[suffix] = skipped.get(suffix, 0) + 1
    if not images:
        raise UsageError(
            f"{folder} holds no images", hint=f"looked for {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return sorted(images)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say
        return False


def read_images(
    images: Sequence[NamedImage], preprocess: Preprocess, budget: Claims = nullcontext
) -> tuple[NDArray[np.uint8], list[ImageError | None]]:
    """Read a batch for the encoder; those that cannot be read are left out.

    Args:
        images: m of them.
        preprocess: the recipe of the bundle.
        budget: entered around each image; gives its ``claim``.

    Returns:
        The pixels of the m images that could be read, uint8 [m, h, w, 3], and for each image why it
        could not, or None.

    Raises:
        UsageError: an image is of no kind that is taken.
    """
    pixels: list[NDArray[np.uint8]] = []
    errors: list[ImageError | None] = []
    for image in images:
        try:
            with budget() as claim:
                pixels.append(read_image(image.source, preprocess, name=image.name, claim=claim))
            errors.append(None)
        except ImageError as error:
            # Who keeps the error must not keep the frames, and the pixels in them.
            errors.append(ImageError(error.message, hint=error.hint))
    size = (preprocess.height, preprocess.width, 3)
    return np.stack(pixels) if pixels else np.empty((0, *size), np.uint8), errors
