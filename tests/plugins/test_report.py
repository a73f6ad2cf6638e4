"""The report: what it says, what it never lets through, and what a browser makes of it."""

import base64
import hashlib
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from mrnn_devtools.report import write_report
from mrnn_runtime import UsageError
from mrnn_runtime.types import Caption, CaptionCandidate, Neighbour


def candidate(text, rank=1, log_prob=-5.0, rerank_score=None):
    return CaptionCandidate(text, log_prob, log_prob, True, rank, rerank_score)


def caption(path, *candidates, error=None, reranker=None, neighbours=()):
    return Caption(
        path=str(path),
        text=candidates[0].caption if candidates else "",
        log_prob=candidates[0].log_prob if candidates else None,
        finished=True,
        candidates=candidates,
        model="tiny",
        provider="CPUExecutionProvider",
        decoder="beam",
        reranker=reranker,
        neighbours=neighbours,
        error=error,
    )


def reranked(path):
    return caption(
        path,
        candidate("a dog runs on grass", 3, -9.125, 1.5),
        candidate("a man", 1, -7.25, 0.75),
        candidate("a man 's hat", 2, -8.0, 0.5),
        reranker="consensus-cider",
        neighbours=(Neighbour("near.jpg", 0.125), Neighbour("far.jpg", 0.5)),
    )


class Page(HTMLParser):
    """Every element with its attributes, and the text outside of style and script."""

    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.text = ""
        self.inside = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside not in ("style", "script"):
            self.text += data

    def handle_endtag(self, tag):
        self.inside = None

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def write(tmp_path):
    """Write a page of some results and return its HTML."""

    def write(*results):
        path = tmp_path / "report.html"
        with write_report(path) as add:
            for result in results:
                add(result)
        return path.read_text("utf-8")

    return write


def test_a_photo_is_part_of_the_page_with_its_caption_as_text(write, photos):
    page = Page(write(caption(photos / "a.png", candidate('a "dog" & a man'))))
    (image,) = page.all("img")
    assert image["alt"] == 'a "dog" & a man'
    start = "data:image/jpeg;base64,"
    assert image["src"].startswith(start)
    picture = Image.open(io.BytesIO(base64.b64decode(image["src"][len(start) :])))
    assert picture.size == (256, 256)
    assert str(photos / "a.png") in page.text
    assert "Captions by tiny" in page.text
    assert "decoder beam · CPUExecutionProvider" in page.text


def test_both_orders_and_all_numbers_are_there(write, photos):
    html = write(reranked(photos / "a.png"))
    page = Page(html)
    rows = re.findall(r"<li><span.*?</li>", html)
    assert len(rows) == 3
    for row, new, was, numbers in zip(
        rows,
        "123",
        ("place 3 before", "place 1 before", "place 2 before"),
        (("9.12", "1.500"), ("7.25", "0.750"), ("8.00", "0.500")),
        strict=True,
    ):
        assert f">{new}</span>" in row
        assert was in row
        log_prob, score = numbers
        assert f"\N{MINUS SIGN}{log_prob}<" in row
        assert f"{score}<" in row
    # A line from each old place to the new one; the winner's is drawn last, over the others.
    lines = [(attrs.get("class"), attrs["d"]) for attrs in page.all("path")]
    assert [(name, d.partition("C")[0], d.rpartition(" ")[2]) for name, d in lines] == [
        (None, "M0 1.5", "2.5"),
        (None, "M0 0.5", "1.5"),
        ("first", "M0 2.5", "0.5"),
    ]
    assert "near.jpg" in page.text and "0.125" in page.text
    assert "2 nearest reference images" in page.text
    assert "reranker consensus-cider" in page.text


def test_points_lie_between_the_lowest_and_the_highest_value(write, photos):
    html = write(reranked(photos / "a.png"))
    assert re.findall(r"--at:([\d.]+)", html) == [
        "0.000",
        "1.000",
        "1.000",
        "0.250",
        "0.600",
        "0.000",
    ]


def test_equal_values_and_one_candidate_are_no_problem(write, photos):
    same = [candidate("a man", 1, -5.0, 1.0), candidate("a dog", 2, -5.0, 1.0)]
    alone = caption(photos / "a.png", candidate("a man", 1, -5.0, 1.0))
    assert "nan" not in write(caption(photos / "a.png", *same), alone)


def test_without_a_reranker_there_are_no_lines(write, photos):
    page = Page(write(caption(photos / "a.png", candidate("a man"), candidate("a dog", 2))))
    assert page.all("svg") == []
    assert len(page.all("li")) == 2


def test_errors_are_listed_and_counted(write, photos):
    page = Page(
        write(
            caption("x.jpg", error="x.jpg is empty (copy it again)"),
            caption(photos / "a.png", candidate("a man")),
        )
    )
    assert "x.jpg is empty (copy it again)" in page.text
    assert "2 photos, 1 of them could not be captioned." in page.text


def test_a_photo_that_has_gone_leaves_its_caption(write, tmp_path):
    page = Page(write(caption(tmp_path / "gone.jpg", candidate("a man"))))
    assert page.all("img") == []
    assert "a man" in page.text


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;\u202e</title></style>"


def test_nothing_that_a_name_or_a_caption_holds_becomes_markup(write, photos):
    tame = reranked(photos / "a.png")
    wild = caption(
        photos / "a.png",
        *(candidate(HOSTILE, one.rank, -5.0, 1.0) for one in tame.candidates),
        reranker=HOSTILE,
        neighbours=(Neighbour(HOSTILE, 0.1), Neighbour(HOSTILE, 0.2)),
    )
    results = [wild, caption(HOSTILE, error=HOSTILE)]
    page = Page(write(*results))
    other = Page(write(tame, caption("x", error="y")))
    assert [name for name, _ in page.elements] == [name for name, _ in other.elements]
    assert [sorted(attrs) for _, attrs in page.elements] == [
        sorted(attrs) for _, attrs in other.elements
    ]
    # The reranker twice, the caption and three candidates, two neighbours, a path and an error.
    assert page.text.count(HOSTILE) == 10
    assert page.all("img")[0]["alt"] == HOSTILE


def test_file_names_that_are_no_text_do_not_stop_it(write, photos):
    assert "b?.png" in write(caption("b\udcff.png", candidate("a man")))


def test_the_policy_allows_this_script_only_and_no_network(write, photos):
    html = write(reranked(photos / "a.png"))
    (policy,) = [m["content"] for m in Page(html).all("meta") if m.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "http" not in html.replace("http-equiv", "")


def test_the_page_appears_whole_or_not_at_all(tmp_path, photos):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_report(path) as add:
        add(reranked(photos / "a.png"))
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["report.html"]


@pytest.mark.parametrize("name", [".", "missing/report.html"])
def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path, name):
    with pytest.raises(UsageError, match="cannot write"), write_report(tmp_path / name):
        pytest.fail("it must not begin")


# in a browser


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Open an address in headless Chromium and return the page as it stands after its script."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs Chromium, to open the report in")
    quiet = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--no-first-run"),
    ]

    def browse(address):
        profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
        command = [program, *quiet, profile, "--virtual-time-budget=2000", "--dump-dom", address]
        child = subprocess.run(command, capture_output=True, timeout=120, check=True)
        return child.stdout.decode()

    return browse


def shown(html):
    """Return the headings of the photos that are not hidden, and what the counter says."""
    articles = re.findall(r"<article([^>]*)>.*?<h2>(.*?)</h2>", html, re.S)
    count = re.search(r"<output[^>]*>(.*?)</output>", html)[1]
    return [heading for attrs, heading in articles if "hidden" not in attrs], count


def test_a_browser_shows_and_filters_it(browse, write, photos, tmp_path):
    write(
        reranked(photos / "a.png"),
        caption(photos / "b.jpg", candidate("a man on a hat"), candidate("a dog", 2)),
        caption(photos / "sub/c.png", candidate("grass")),
        caption("broken.jpg", error="broken.jpg is empty"),
    )
    address = (tmp_path / "report.html").as_uri()
    everything = ["a dog runs on grass", "a man on a hat", "grass", "No caption"]
    page = browse(address)
    assert shown(page) == (everything, "4 photos")
    assert "<form" in page and "hidden" not in re.search(r"<form[^>]*>", page)[0]
    assert shown(browse(f"{address}#q=dog")) == (everything[:2], "2 of 4 photos")
    assert shown(browse(f"{address}#q=MAN+hat")) == (everything[:2], "2 of 4 photos")
    assert shown(browse(f"{address}#q=zebra")) == ([], "0 of 4 photos")
    assert shown(browse(f"{address}#q=broken%20empty")) == (everything[3:], "1 of 4 photos")


def test_a_browser_runs_no_script_of_a_hostile_name(browse, write, tmp_path):
    attack = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    html = write(caption(attack, candidate(attack)))
    page = browse((tmp_path / "report.html").as_uri())
    assert "<title>Captions by tiny</title>" in page
    # The second wall: where escaping fails, the page's policy stops it.
    raw = html.replace("<main>", f"<main>{attack}")
    without = raw.replace("Content-Security-Policy", "x")
    for name, text, title in (("raw", raw, "Captions by tiny"), ("without", without, "taken")):
        (tmp_path / f"{name}.html").write_text(text, "utf-8")
        assert f"<title>{title}</title>" in browse((tmp_path / f"{name}.html").as_uri())
