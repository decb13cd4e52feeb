"""The status page in a browser: it fits, is readable in light and dark without scripts, asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from servers.chromium import Chromium
from somactl.serve import page as module
from support.readable import FAINT, OVERLAPPING, TOO_WIDE, check
from support.serve_process import ServeProcess
from support.status_page import HOSTILE, Scene, serving
from support.violation import put_violation
from tests.cli.conftest import Shell, density

WIDTHS = (360, 768, 1280)
KEYS = [f"acme:({number}.0, 14.0, {43 + number}.0):data" for number in range(12)]


def well(**options: object) -> Scene:
    scene = Scene(**options)
    scene.services()
    scene.day(*KEYS, every=4)
    scene.extras()
    return scene


def violated() -> Scene:
    scene = well()
    scene.found("violated", KEYS[9], bound=-0.031, reasons=("the smallest eigenvalue is at most -0.031",))
    scene.found("corrupt", KEYS[10], bound=None, trace=None)
    scene.found("undecided", KEYS[11], bound=-1.2e-8)
    scene.found("violated", KEYS[9], store="cache", bound=-0.031)
    scene.services(cache=False)
    scene.clock.now += 40
    return scene


def dark() -> Scene:
    scene = well(dark=True)
    scene.found("violated", KEYS[3], bound=-0.2, dark=True)
    return scene


def hostile() -> Scene:
    scene = well()
    scene.listed(*HOSTILE)
    scene.found("violated", *HOSTILE, reasons=("<b onclick=alert(1)>" * 20,))
    scene.state.prover_state("restarting", failure="<script>document.title = 'ran'</script>" * 20)
    scene.state.drain()
    return scene


def namespaces() -> Scene:
    names = ["a", "cluster-" + "x" * 56, *(f"cluster-{number}" for number in range(6))]
    scene = Scene(*names)
    for each in names[:-1]:
        scene.services(each)
        scene.whole(*KEYS[:3], namespace=each)
        scene.extras(each)
    scene.found("violated", KEYS[0], namespace=names[1])
    return scene


def empty() -> Scene:
    return Scene()


@pytest.mark.parametrize("make", [well, violated, dark, hostile, namespaces, empty])
def test_it_fits_and_is_readable(make: Callable[[], Scene], chromium: Chromium) -> None:
    with serving(make().page) as url, chromium.open(url, width=WIDTHS[0], scripts=make is hostile) as page:
        for dark_too in (False, True):
            page.choose(dark=dark_too)
            ground = page.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(json.loads(f"[{ground[4:-1]}]")) < 3 * 64) == dark_too
            for width in WIDTHS:
                page.resize(width)
                check(page)
        assert page.messages == []
        assert page.requests == [url]
        assert page.run("document.title").endswith(", somactl")


def test_what_is_checked_can_fail(chromium: Chromium) -> None:
    with serving(violated().page) as url, chromium.open(url, width=360) as page:
        check(page)
        page.run("document.querySelector('.sentence').style.color = '#f99'")
        assert [text for text, _ in page.run(FAINT)] == [
            page.run("document.querySelector('.sentence').innerText")[:40]
        ]
        page.run("document.querySelector('.word').style.marginLeft = '400px'")
        assert page.run(TOO_WIDE) != []
        page.run("document.querySelector('tbody td').style.marginTop = '-20px'")
        assert page.run(OVERLAPPING) != []


@pytest.mark.parametrize("width", [360, 1280])
def test_a_screen_reader_is_told_the_same(width: int, chromium: Chromium) -> None:
    """Where rows are cards too, where a browser would forget that they are a table."""
    scene = violated()
    with serving(scene.page) as url, chromium.open(url, width=width) as page:
        told = page.accessible()
    headings = [text.strip() for role, text in told if role == "heading"]
    assert headings[:3] == ["NOT OK", "What is wrong now", "Namespaces"]
    roles = [role for role, _ in told]
    assert roles.count("table") == 5
    assert roles.count("rowheader") == 1 + len(KEYS) + 1 + 2 + len(scene.state.health().since_start)
    assert roles.count("columnheader") == 9 + 7 + 7 + 4 + 5
    assert {"main", "banner", "contentinfo", "navigation"} <= {*roles}
    pictures = [text for role, text in told if role == "image"]
    assert len(pictures) == 2 * (1 + len(KEYS))
    assert all(text.startswith(("One day of the ", "No ")) for text in pictures)
    assert any("lowest -3.1e-2" in text for text in pictures)


def test_what_the_served_page_says_follows_the_store(chromium: Chromium, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    file = shell.save("a.npy", density(4))
    shell.ok("commit", f"acme:1={file}", f"b={file}")
    with ServeProcess(tmp_path, "--interval", "0.2s") as serve:
        serve.event("health", ok=True)
        url = f"http://127.0.0.1:{serve.port}/"
        with chromium.open(url, width=WIDTHS[0]) as page:
            assert "All 2 watched matrices are density matrices" in page.text()
            check(page)
            put_violation(f"sqlite:///{tmp_path}/somactl.db", "acme:1")
            serve.await_line(lambda line: "violated" in line.get("reasons", []))
            page.go(url)
            assert "Key 'acme:1' in sqlite is no density matrix." in page.text()
            check(page)
            assert page.messages == []
            assert page.requests == [url, url]


def test_it_is_read_without_scripts_and_made_anew_by_itself(
    chromium: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 1)
    scene = well()
    with serving(scene.page) as url, chromium.open(url) as page:
        assert page.text().startswith("✓ OK\n\nAll 12 watched matrices are density matrices")
        scene.found("violated", KEYS[0])
        scene.clock.now += 2
        page.wait_for_load(1)
        assert "no density matrix" in page.text()
        page.go(url + "?refresh=off")
        assert page.run("document.querySelector('meta[http-equiv]')") is None
        assert "refresh by itself" in page.text()
