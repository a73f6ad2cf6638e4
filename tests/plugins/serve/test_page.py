"""The page of mrnn-web, where it is installed."""

import importlib

import pytest


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A stand-in for mrnn-web: a package with a folder of files."""
    page = tmp_path / "mrnn_web" / "page"
    (page / "parts").mkdir(parents=True)
    (page.parent / "__init__.py").write_text("SECRET = 1\n")
    (page / "index.html").write_text("<!doctype html><title>captions</title>")
    (page / "parts" / "app.js").write_text("export {};\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "mrnn_web", raising=False)
    return page


def test_the_page_is_served_and_kept_at_home(start, tiny, installed):
    with start(tiny) as server:
        for path in ("/", "/index.html"):
            answer = server.client.get(path)
            assert answer.text == (installed / "index.html").read_text()
            assert answer.headers["content-type"].startswith("text/html")
            assert "default-src 'self'" in answer.headers["content-security-policy"]
        script = server.client.get("/parts/app.js")
        assert "javascript" in script.headers["content-type"]
        for path in ("/__init__.py", "/../__init__.py", "/parts", "/%2e%2e/__init__.py"):
            assert server.client.get(path).status_code == 404


def test_without_it_a_line_says_how_to_get_it(start, tiny, monkeypatch):
    monkeypatch.setattr("mrnn_serve.page.find_spec", lambda name: None)
    with start(tiny) as server:
        answer = server.client.get("/")
        assert answer.status_code == 200
        assert "pip install mrnn-web" in answer.text
        assert answer.text.count("\n") == 1
