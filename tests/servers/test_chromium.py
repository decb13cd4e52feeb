"""The browser of the tests shows what it is asked to, and tells all that a page does."""

from __future__ import annotations

import struct
import urllib.parse
from pathlib import Path

import pytest

from servers import chromium as module
from servers.chromium import Chromium
from servers.process import ServerFailed, ServerMissing

TALL = """<!doctype html><title>Test</title><style>body { margin: 0; height: 3000px } h1 { margin: 0 }</style>
<h1>A title</h1><script>document.title = 'ran'; console.log('said')</script>"""


def as_url(html: str) -> str:
    return "data:text/html," + urllib.parse.quote(html)


def test_a_page_has_its_width_and_scheme_and_runs_no_script(chromium: Chromium, tmp_path: Path) -> None:
    with chromium.open(as_url(TALL), width=360, dark=True) as page:
        assert page.run("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [360, True]
        assert (page.run("document.title"), page.text(), page.messages) == ("Test", "A title", [])
        assert ("heading", "A title") in page.accessible()
        page.screenshot(tmp_path / "page.png")
    data = (tmp_path / "page.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (360, 3000)


def test_what_a_page_asks_for_and_says_is_told(chromium: Chromium) -> None:
    html = TALL + "<img src='http://127.0.0.1:1/picture'><script>throw Error('thrown')</script>"
    with chromium.open(as_url(html), scripts=True) as page:
        assert page.run("document.title") == "ran"
        assert page.requests[1:] == ["http://127.0.0.1:1/picture"]
        assert [
            word for word in ("said", "Failed to load", "Uncaught") if word in " ".join(page.messages)
        ] == [
            "said",
            "Failed to load",
            "Uncaught",
        ]


def test_a_page_that_does_not_load_says_why(chromium: Chromium) -> None:
    with pytest.raises(ServerFailed, match="ERR_FILE_NOT_FOUND"):
        chromium.open("file:///no/such/page.html")
    with chromium.open(as_url(TALL)) as page, pytest.raises(ServerFailed, match="SyntaxError"):
        page.run("(")


def test_without_a_browser_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRAMS", ("no-such-browser",))
    with pytest.raises(ServerMissing, match=r"^no-such-browser is not installed: run `make servers`$"):
        Chromium(tmp_path)
