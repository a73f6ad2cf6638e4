"""Take the pictures of the page that ``mrnn serve`` shows: ``python docs/demo/page.py``.

Needs mrnn-serve, mrnn-web, playwright and a Chromium, which MRNN_CHROMIUM or the PATH names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).parent
PHOTOS = [HERE / "photos" / name for name in ("dog.jpg", "cat.jpg", "temple.jpg")]
# Name of the picture: colours, width and height.
VIEWS = {
    "page": ("light", 1100, 860),
    "page-dark": ("dark", 1100, 860),
    "page-phone": ("light", 390, 844),
}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
PATIENCE_MS = 120_000


def show(page: Page, address: str) -> None:
    """Have three photos captioned, and sorted by a sentence."""
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.set_input_files("#files", PHOTOS)
    page.locator("#photos > li:not(.waiting)").nth(len(PHOTOS) - 1).wait_for()
    page.fill("#sentence", "a dog in the grass")
    page.keyboard.press("Enter")
    page.get_by_text("Sorted by").wait_for()
    page.locator("#photos summary").first.click()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def main() -> None:
    """Serve the built-in model and photograph its page."""
    command = [sys.executable, "-m", "mrnn_runtime", "serve", "--port", "0", "--provider", "cpu"]
    chromium = os.environ.get("MRNN_CHROMIUM") or shutil.which("chromium")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        (address,) = re.findall(r"http://\S+", server.stderr.readline())
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
            for name, (colours, width, height) in VIEWS.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if colours == "dark" else "light",
                )
                page.set_default_timeout(PATIENCE_MS)
                show(page, address)
                page.screenshot(path=HERE / f"{name}.jpg", type="jpeg", quality=85)
            browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
