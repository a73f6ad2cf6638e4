"""Caption the photos in docs/demo/photos, or the ones that you name, and print a table."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mrnn_runtime import MrnnError, load

PHOTOS = Path(__file__).resolve().parents[1] / "docs" / "demo" / "photos"


def main(paths: list[str]) -> int:
    """Print one row a photo; return 1 where a photo could not be read, 3 where nothing works."""
    console = Console(markup=False, width=None if sys.stdout.isatty() else 100)
    try:
        captions = list(load("everyday").caption(paths or [PHOTOS]))
    except MrnnError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3
    table = Table("photo", "caption", "confidence")
    for caption in captions:
        confidence = "" if caption.confidence is None else f"{caption.confidence:.2f}"
        table.add_row(Path(caption.path).name, str(caption.error or caption.text), confidence)
    if captions:
        last = captions[-1]
        table.caption = f"model {last.model}, {last.decoder} decoder, {last.provider}"
    console.print(table)
    return int(any(caption.error for caption in captions))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
