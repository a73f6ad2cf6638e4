"""Draw docs/demo/demo.jpg, the demo photos with their captions: ``python docs/demo/picture.py``."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from mrnn_runtime import load

HERE = Path(__file__).parent
COLUMNS, WIDTH, HEIGHT, TEXT, GAP = 4, 300, 225, 62, 16


def main() -> None:
    """Caption the photos with the built-in model and draw them in a grid."""
    captions = list(load("everyday", provider="cpu").caption(HERE / "photos"))
    rows = -(-len(captions) // COLUMNS)
    size = (COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + TEXT + GAP) + GAP)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(18)
    for i, caption in enumerate(captions):
        left = GAP + i % COLUMNS * (WIDTH + GAP)
        top = GAP + i // COLUMNS * (HEIGHT + TEXT + GAP)
        with Image.open(caption.path) as photo:
            shown = ImageOps.fit(photo.convert("RGB"), (WIDTH, HEIGHT), centering=(0.5, 0.15))
            page.paste(shown, (left, top))
        text = textwrap.fill(caption.text, 33)
        draw.multiline_text((left, top + HEIGHT + 8), text, fill="#222", font=font, spacing=4)
    page.save(HERE / "demo.jpg", quality=88)


if __name__ == "__main__":
    main()
