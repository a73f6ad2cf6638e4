"""The page of mrnn-web in Chromium: captions inside of it, and by a server."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import threading
from base64 import b64decode, b64encode
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from mrnn_runtime import find_photos, load, open_gallery, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page


site = pytest.importorskip("mrnn_web.site")
flatten = pytest.importorskip("mrnn_exporters.flatten")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

PHOTOS = Path(__file__).parents[2] / "docs" / "demo" / "photos"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Machines of CI are slow when they do much else.
PATIENCE = 300_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("MRNN_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium here; MRNN_CHROMIUM names one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """Serve by a handler on a port of its own: ``serve(handler) -> address``."""
    servers = []

    def start(handler: Callable[..., Any]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def make_site(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., str]
) -> Callable[..., str]:
    if not (Path(site.__file__).parent / "ort" / "version.json").is_file():
        pytest.skip("onnxruntime-web was not fetched: python plugins/mrnn-web/fetch_ort.py")

    def make(model: str, n_best: int = 3) -> str:
        folder = tmp_path_factory.mktemp("web") / "site"
        site.build(model, folder, n_best=n_best)
        return serve(partial(Quiet, directory=folder))

    return make


@pytest.fixture(scope="module")
def tiny_site(make_site: Callable[..., str], tiny_bundle: Path) -> str:
    return make_site(str(tiny_bundle))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def visit(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")


def results(page: Page, count: int) -> list[tuple[str, str]]:
    """Wait until so many photos are done; return names and captions in the order of the page."""
    done = page.locator("#photos > li:not(.waiting)")
    done.nth(count - 1).wait_for()
    return [
        (item.locator(".path").inner_text().partition(", ")[0], item.locator("h2").inner_text())
        for item in done.all()
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a.png, b.jpg and sub/c.png, all different."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, colour in (("a.png", "green"), ("b.jpg", "red"), ("sub/c.png", "blue")):
        image = Image.linear_gradient("L").convert("RGB")
        image.paste(colour, (40, 60, 200, 140))
        image.save(folder / name)
    return folder


@pytest.fixture
def ten_photos(tmp_path: Path) -> list[Path]:
    """The demo's eight; one that its EXIF data turns, and one with transparency."""
    folder = tmp_path / "ten"
    shutil.copytree(PHOTOS, folder, ignore=shutil.ignore_patterns("*.md"))
    with Image.open(PHOTOS / "dog.jpg") as dog:
        exif = Image.Exif()
        exif[0x0112] = 6
        dog.save(folder / "turned.jpg", exif=exif, quality=95)
    with Image.open(PHOTOS / "horses.jpg") as horses:
        horses = horses.convert("RGBA")
        fade = Image.linear_gradient("L").resize(horses.size)
        horses.putalpha(fade)
        horses.save(folder / "see-through.png")
    return sorted(folder.iterdir())


def test_ten_photos_in_the_page_with_the_network_off(
    page: Page, make_site: Callable[..., str], ten_photos: list[Path]
) -> None:
    pytest.importorskip("mrnn_flickr8k")
    captioner = load("flickr8k", provider="cpu", threads=1)
    address = make_site("flickr8k", n_best=1)
    asked: list[tuple[str, str]] = []
    page.context.on("request", lambda request: asked.append((request.method, request.url)))
    visit(page, address)
    page.evaluate("navigator.serviceWorker.ready.then(() => undefined)")
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate("crossOriginIsolated")  # so that several threads may work
    page.set_input_files("#files", ten_photos)
    shown = dict(results(page, len(ten_photos)))
    wanted = {Path(one.path).name: one.text for one in captioner.caption(ten_photos)}
    assert shown == wanted
    assert {method for method, _ in asked} == {"GET"}
    ours = urlsplit(address).netloc
    assert {urlsplit(url).netloc for _, url in asked if not url.startswith("blob:")} == {ours}


def test_pixels_differ_from_pillows_by_two_grey_levels_at_most(
    page: Page, tiny_site: str, ten_photos: list[Path]
) -> None:
    visit(page, tiny_site)
    recipe = load("flickr8k").bundle.preprocess
    code = """async ([photo, recipe]) => {
        const { read, scale } = await import("./pixels.js");
        const bytes = Uint8Array.from(atob(photo), (sign) => sign.charCodeAt(0));
        const pixels = scale(await read(new Blob([bytes])), recipe);
        return btoa(Array.from(pixels, (value) => String.fromCharCode(value)).join(""));
    }"""
    facts = {name: getattr(recipe, name) for name in ("height", "width", "resize", "interpolation")}
    for photo in ten_photos:
        text = page.evaluate(code, [b64encode(photo.read_bytes()).decode(), facts])
        pixels = np.frombuffer(b64decode(text), np.uint8).reshape(260, 260, 3)
        difference = np.abs(pixels - read_image(photo, recipe).astype(int))
        assert difference.max() <= 2, photo.name
        assert difference.mean() < 0.5, photo.name


def test_photos_may_be_dropped_pasted_and_picked_and_broken_ones_hold_nothing_up(
    page: Page, tiny_site: str, photos: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    visit(page, tiny_site)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    (tmp_path / "notes.txt").write_text("no photo")
    page.set_input_files("#files", tmp_path / "notes.txt")
    assert "None of these files is a photo" in page.inner_text("#status")
    page.set_input_files("#files", [tmp_path / "broken.jpg", photos / "b.jpg"])
    results(page, 2)
    give = """([kind, name, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
        const event = kind === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
        document.body.dispatchEvent(event);
    }"""
    for kind, name in (("drop", "a.png"), ("paste", "sub/c.png")):
        page.evaluate(give, [kind, name, list((photos / name).read_bytes())])
    rows = results(page, 4)
    captioner = load(tiny_bundle, provider="cpu")
    texts = [one.text for one in captioner.caption([photos / n for n in ("a.png", "sub/c.png")])]
    assert [text for _, text in rows] == [rows[0][1], "No caption", *texts]
    assert "cannot read" in page.inner_text(".error:visible")
    assert page.inner_text("#status") == "4 of 4 photos done, 1 without a caption."


def test_a_folder_is_walked(page: Page, tiny_site: str, photos: Path) -> None:
    visit(page, tiny_site)
    page.set_input_files("#folder", photos)
    assert [name for name, _ in results(page, 3)] == [
        "photos/a.png", "photos/b.jpg", "photos/sub/c.png"
    ]  # fmt: skip


def test_candidates_and_what_leaves_the_page(
    page: Page, tiny_site: str, photos: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    (wanted,) = captioner.caption(photos / "b.jpg", n_best=3)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, tiny_site)
    page.set_input_files("#files", photos / "b.jpg")
    results(page, 1)
    page.click(".more summary")
    lines = page.locator(".candidates li .words").all_inner_texts()
    assert lines == [one.caption for one in wanted.candidates]
    page.click("[data-copy=markdown]")
    page.get_by_text("Copied:").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f"![{wanted.text}](b.jpg)"
    files = {}
    for kind in ("csv", "json"):
        with page.expect_download() as download:
            page.click(f"#save-{kind}")
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    (row,) = csv.DictReader(files["csv"].read_text().splitlines())
    assert (row["path"], row["caption"]) == ("b.jpg", wanted.text)
    (record,) = json.loads(files["json"].read_text())
    assert record["log_prob"] == pytest.approx(wanted.log_prob, abs=1e-3)
    page.click("#clear")
    assert page.locator("#photos > li").count() == 0
    assert page.locator("#results").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_a_phone(
    page: Page, tiny_site: str, photos: Path, scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    visit(page, tiny_site)
    assert problems(page) == []
    page.set_input_files("#folder", photos)
    results(page, 3)
    page.locator("summary").first.click()
    assert problems(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def problems(page: Page) -> list[str]:
    violations = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in violations]


def test_keys_are_enough(page: Page, tiny_site: str, photos: Path) -> None:
    visit(page, tiny_site)
    with page.expect_file_chooser() as chooser:
        page.locator("#pick").press("Enter")
    chooser.value.set_files(photos / "b.jpg")
    results(page, 1)
    seen = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Choose a folder", "Save CSV", "Copy HTML", "3 candidates"} <= seen


@pytest.fixture
def real_server(tiny_bundle: Path) -> Iterator[str]:
    """``mrnn serve`` with the tiny bundle, in a thread."""
    pytest.importorskip("mrnn_serve.app", reason="mrnn-serve is not installed")
    from mrnn_serve.app import Access, make_app
    from mrnn_serve.limits import Limits
    from mrnn_serve.observe import Metrics
    from mrnn_serve.server import listen, make_server
    from mrnn_serve.service import Service

    captioner = load(tiny_bundle, provider="cpu", threads=1)
    service = Service({"tiny": captioner}, limits=Limits(), metrics=Metrics())
    sock = listen("127.0.0.1", 0)
    server = make_server(make_app(service, Access(), lambda _: None), grace=30)
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
    server.should_exit = True
    thread.join(60)


def test_three_photos_are_dropped_found_and_copied(
    page: Page, real_server: str, tiny_bundle: Path, photos: Path
) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, real_server)
    files = [[path.name, list(path.read_bytes())] for path in sorted(photos.rglob("*.*"))]
    page.evaluate(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files)
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
            document.querySelector("#drop").dispatchEvent(event);
        }""",
        files,
    )
    assert [text for _, text in results(page, 3)] == [one.text for one in captioner.caption(photos)]
    page.fill("#sentence", "a dog on a beach")
    page.keyboard.press("Enter")
    page.get_by_text("Sorted by").wait_for()
    best, text = results(page, 3)[0]
    assert (
        best
        == find_photos(captioner, "a dog on a beach", open_gallery(captioner, [photos]))[
            0
        ].path.name
    )
    page.locator("[data-copy=html]").first.click()
    page.get_by_text("Copied:").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f'<img src="{best}" alt="{text}">'
    assert problems(page) == []


def test_a_server_makes_the_captions_and_finds_photos(
    page: Page, real_server: str, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    captioner = load(tiny_bundle, provider="cpu")
    visit(page, real_server)
    page.set_input_files("#folder", photos)
    assert [text for _, text in results(page, 3)] == [one.text for one in captioner.caption(photos)]
    page.fill("#sentence", "a dog runs")
    page.keyboard.press("Enter")
    page.get_by_text("Sorted by").wait_for()
    matches = find_photos(captioner, "a dog runs", open_gallery(captioner, [photos]))
    best = [match.path.name for match in matches]
    assert [name.split("/")[-1].split(",")[0] for name, _ in results(page, 3)] == best
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    page.set_input_files("#files", tmp_path / "broken.jpg")
    assert results(page, 4)[-1][1] == "No caption"
    assert problems(page) == []


class Firefox:
    """Firefox without a window, by its own protocol, Marionette: JSON with its length before it."""

    def __init__(self, program: str, profile: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        profile.mkdir()
        (profile / "user.js").write_text(
            f'user_pref("marionette.port", {port});\n'
            'user_pref("network.connectivity-service.enabled", false);\n'
            'user_pref("network.captive-portal-service.enabled", false);\n'
        )
        command = [program, "--headless", "--marionette", "--no-remote", "--profile", profile]
        self._log = (profile / "log").open("w+b")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._sock = self._connect(port)
        self._stream = self._sock.makefile("rb")
        self._sent = 0
        self._read()
        timeouts = {"script": PATIENCE, "pageLoad": PATIENCE}
        self.ask("WebDriver:NewSession", capabilities={"alwaysMatch": {"timeouts": timeouts}})

    def _connect(self, port: int) -> socket.socket:
        pause, last = threading.Event(), OSError("Firefox does not answer")
        for _ in range(600):
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE / 1000)
            except OSError as error:
                last = error
            pause.wait(0.1)
        self._process.kill()
        raise last

    def _read(self) -> Any:
        size = b""
        while (sign := self._stream.read(1)) != b":":
            assert sign, "Firefox has gone"
            size += sign
        return json.loads(self._stream.read(int(size)))

    def ask(self, command: str, **given: object) -> Any:
        self._sent += 1
        data = json.dumps([0, self._sent, command, given]).encode()
        self._sock.sendall(b"%d:%b" % (len(data), data))
        _, _, error, result = self._read()
        assert not error, error
        return result

    def when(self, condition: str, value: str) -> Any:
        """Wait until an expression of the page is true; return another."""
        look = f"({condition}) ? done({value}) : setTimeout(look, 50)"
        code = f"const [done] = arguments; const look = () => {look}; look();"
        return self.ask("WebDriver:ExecuteAsyncScript", script=code, args=[])["value"]

    def close(self) -> None:
        self._stream.close()
        self._sock.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


def test_firefox_with_a_model_of_8_bits(make_site: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("mrnn_everyday")
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.skip("no Firefox here")
    photos = sorted(PHOTOS.glob("*.jpg"))
    firefox = Firefox(program, tmp_path / "profile")
    try:
        firefox.ask("WebDriver:Navigate", url=make_site("everyday", n_best=1))
        firefox.when("document.body.dataset.ready", "true")
        element = firefox.ask("WebDriver:FindElement", using="css selector", value="#files")
        (name,) = element["value"].values()
        firefox.ask("WebDriver:ElementSendKeys", id=name, text="\n".join(map(str, photos)))
        done = 'document.querySelectorAll("#photos > li:not(.waiting)")'
        captions = f'[...{done}].map((item) => item.querySelector("h2").textContent)'
        captions = firefox.when(f"{done}.length === {len(photos)}", captions)
    finally:
        firefox.close()
    wanted = [one.text for one in load("everyday", provider="cpu", threads=1).caption(photos)]
    # The decoder of JPEGs differs by a grey level here and there, which may decide a near tie.
    assert sum(a == b for a, b in zip(captions, wanted, strict=True)) >= len(photos) - 1
