"""``mrnn caption --watch``: captions of photos as they arrive; mrnn-photos tells of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.cli import output as speech
from mrnn_runtime.cli.extensions import optional
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from mrnn_runtime.types import Caption


def check(paths: Sequence[str], report: Path | None) -> None:
    """Refuse what cannot be watched.

    Raises:
        UsageError: a path is no folder, or there would be a report, which is written at the end.
        PluginError: mrnn-photos is not installed.
    """
    for path in paths:
        if not Path(path).is_dir():
            raise UsageError(f"{path} is no folder", hint="--watch waits for photos in folders")
    if report:
        raise UsageError("--report is written at the end, and --watch has none")
    optional("mrnn_photos.watching")


def look(paths: Iterable[str]) -> list[Path]:
    """Return the images that folders hold; one may be empty, or away for a while."""
    from mrnn_runtime.images import find_images

    images: list[Path] = []
    for path in paths:
        try:
            images += find_images([path])
        except UsageError:
            continue
    return images


def captions(
    paths: Sequence[str], done: set[Path], describe: Callable[[list[Path]], Iterable[Caption]]
) -> Generator[Caption]:
    """Yield captions of photos as they arrive, those that are there and not done first.

    Args:
        paths: folders.
        done: images that are done; those that are captioned are added.
        describe: captions images.
    """
    arrivals = optional("mrnn_photos.watching").arrivals
    speech.note(f"watching {', '.join(paths)}; Ctrl-C or SIGTERM ends it")
    for images in arrivals(paths, lambda: [one for one in look(paths) if one not in done]):
        for caption in describe(images):
            yield caption
            if caption.error is None:
                done.add(Path(caption.path))
