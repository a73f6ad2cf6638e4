"""Photos that are no matter for Exiv2, such as HEIC: through the program exiftool."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

from mrnn_runtime import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 60  # for one photo


def captions_of(content: bytes) -> Sequence[str]:
    """Return what a photo says in XMP and in EXIF.

    Raises:
        ImageError: exiftool is not installed.
        ValueError: it cannot read the photo.
    """
    tags = ("-XMP-dc:Description", "-EXIF:ImageDescription")
    (said,) = json.loads(_run(content, "-json", *tags, "-"))
    return [str(value) for name, value in said.items() if name != "SourceFile"]


def with_caption(content: bytes, caption: str) -> bytes:
    """Return a photo with another caption, in XMP and in EXIF.

    Raises:
        ImageError: exiftool is not installed.
        ValueError: it cannot write such a photo.
    """
    tags = (f"-XMP-dc:Description-x-default={caption}", f"-EXIF:ImageDescription={caption}")
    return _run(content, *tags, "-o", "-", "-")


def _run(content: bytes, *args: str) -> bytes:
    program = shutil.which("exiftool")
    if program is None:
        raise ImageError(
            "only exiftool writes into a photo of its format, and it is not installed",
            hint="install exiftool (Debian: apt install libimage-exiftool-perl), or use"
            " --sidecar xmp",
        )
    # -config with an empty name: no file of the user's changes what the tags above mean.
    command = [program, "-config", "", "-charset", "utf8", "-quiet", *args]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"exiftool fails: {error}") from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode("utf-8", "replace").strip().removesuffix(" - -")
        raise ValueError(f"exiftool says: {said or done.returncode}")
    return done.stdout
