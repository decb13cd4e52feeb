"""The status page as HTML: what it says in each state, and that nothing from outside becomes markup."""

from __future__ import annotations

import asyncio
import html
import re
import shlex
from html.parser import HTMLParser
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.routing import Route

from somactl.report.health import Reason
from somactl.report.page.html import Html, el, name
from somactl.report.page.words import duration, milliseconds, moment, number, share
from somactl.report.pushing import BacklogView, LedgerView
from somactl.serve import page as module
from somactl.serve.context import ServeContext, ServeOptions
from somactl.serve.history import BUCKET_SECONDS
from somactl.serve.log import Log
from somactl.serve.page import routes
from somactl.serve.page.style import POLICY, STYLE
from somactl.serve.page.verdict import next_command
from somactl.serve.page.view import MAX_ROWS
from somactl.serve.state import State
from support.status_page import HOSTILE, Scene

KEYS = ("acme:(9.0, 14.0):data", "b", "c")
VOID = {"meta", "link", "br"}
BLOCKS = {"td", "th", "dd", "dt", "p", "h1", "h2", "div", "li", "title"}


class Document(HTMLParser):
    """A page taken apart; it fails where an element is not closed, or closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.words.append(" " if tag in BLOCKS else "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.words.append(" " if tag in BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]


def heading(scene: Scene) -> tuple[str, str]:
    """The verdict, and the sentence below it."""
    text = scene.html()
    found = re.search(r"<h1>.*?</span> (.*?)</h1><p class=\"sentence\">(.*?)</p>", text)
    assert found is not None
    return found[1], html.unescape(re.sub("<.*?>", "", found[2]))


def well(**options: Any) -> Scene:
    scene = Scene(**options)
    scene.services()
    scene.whole(*KEYS)
    scene.extras()
    return scene


def test_text_is_escaped_where_it_becomes_a_part_of_an_element() -> None:
    assert el("p", "a < b & 'c'", title='"><b>', hidden=True, lang=None, dir=False, data_label="x") == (
        '<p title="&quot;&gt;&lt;b&gt;" hidden data-label="x">a &lt; b &amp; &#x27;c&#x27;</p>'
    )
    assert el("p", ["1", el("b", "<"), None, Html("<i></i>")], class_="x") == (
        '<p class="x">1<b>&lt;</b><i></i></p>'
    )


@pytest.mark.parametrize("shown", ["\u202e", "\u200b", "\xa0", "\x07", "\ud800", "\U000e0100"])
def test_what_would_not_be_seen_stands_there_as_an_escape(shown: str) -> None:
    escape = shown.encode("unicode_escape").decode()
    assert name(f"a{shown}b") == f'<bdi class="name">a<span class="escape">{escape}</span>b</bdi>'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (number(-1.42e-12), "-1.4e-12"),
        (number(0.0), "0"),
        (number(float("inf")), "inf"),
        (duration(0.0), "0.0 s"),
        (duration(0.0034), "3 ms"),
        (duration(2.04), "2.0 s"),
        (duration(9.96), "10 s"),
        (duration(119), "119 s"),
        (duration(121), "2 min"),
        (duration(7300), "2 h"),
        (duration(200_000), "2 d"),
        (duration(-1), "0.0 s"),
        (milliseconds(0.00421), "4.2 ms"),
        (share(1.0), "100 %"),
        (share(0.99999), "99.9 %"),
    ],
)
def test_numbers_are_short(value: str, text: str) -> None:
    assert value == text


def test_a_time_has_its_date_where_that_is_not_todays() -> None:
    noon = 1_796_000_000.0 - 1_796_000_000.0 % 86400 + 43200
    assert ">12:00:00 UTC<" in moment(noon, noon + 60)
    assert f">{'2026-11-29' if noon < 1_796_000_000 else '2026-11-30'} 12:00 UTC<" in moment(
        noon, noon + 86400
    )


def test_all_is_well() -> None:
    scene = well()
    assert heading(scene) == (
        "OK",
        "All 3 watched matrices are density matrices, each proven within the last 2.0 s.",
    )
    document = Document(scene.html())
    for words in (
        "Proven 3 of 3",
        "Version",
        "1,042 head 1,043",
        "11 h ago 98.4 % read a cycle in 3 d",
        "3 waiting",
        "4.0 ms 7.6 ms 7.6 ms 7.6 ms",
        "kept",
        "running",
        "incarnation 6f0c1b9a4e7d4c53",
        "postgres answers",
        "What Message",
    ):
        assert words in document.text.replace("✓", "").replace("  ", " "), words
    assert "What is wrong now" not in document.text


def test_a_head_that_was_looked_up_long_ago_is_not_below_what_was_read_since() -> None:
    scene = well()
    scene.extras(version=5)
    assert "1,042 head 1,042" in Document(scene.html()).text


def test_one_matrix_is_not_called_many() -> None:
    scene = Scene()
    scene.whole("a")
    assert heading(scene)[1].startswith("The one watched matrix is a density matrix")


def test_a_violation_is_said_with_its_key_and_what_to_do() -> None:
    scene = well()
    scene.found("violated", KEYS[0], bound=-0.031)
    scene.ended()
    assert heading(scene) == ("NOT OK", "Key 'acme:(9.0, 14.0):data' in postgres is no density matrix.")
    text = Document(scene.html()).text
    assert "Next somactl verify-psd 'acme:(9.0, 14.0):data' --namespace default" in text
    assert "somactl explain RHO_VIOLATION --with 'KEY=acme:(9.0, 14.0):data' --namespace default" in text
    assert "not all are" in text
    rows = text[text.index("Watched keys") :]
    assert re.search(r"acme:\(9\.0, 14\.0\):data ✕ violated -3\.1e-2 .* b ✓ valid -1\.4e-12", rows)


def test_a_bad_copy_stands_beside_its_original_which_comes_first_where_both_are_bad() -> None:
    scene = well()
    scene.found("contradicting", "b", store="cache")
    scene.found("violated", "c", store="cache")
    scene.found("violated", "c")
    word, sentence = heading(scene)
    assert (word, sentence) == ("NOT OK", "Key 'c' in postgres is no density matrix, and 2 more reasons.")
    text = Document(scene.html()).text
    assert "✓ valid in postgres ✕ contradicting in cache" in text
    assert "✕ violated in postgres ✕ violated in cache" in text
    assert text.count("violated, fails") == 2


def test_nothing_is_called_good_before_it_is_proven() -> None:
    scene = Scene()
    assert heading(scene)[0] == "STARTING"
    scene.listed("a", "b")
    scene.found("valid", "a")
    assert heading(scene) == (
        "STARTING",
        "Nothing is called good before it is proven: 1 of 2 watched matrices so far.",
    )
    text = Document(scene.html()).text
    assert "b ! not read yet" in text
    assert text.index("b ! not read yet") < text.index("a ✓ valid")
    assert "unreadable" not in text


@pytest.mark.parametrize(
    ("scene", "word", "words"),
    [
        ("nothing", "NOT OK", "No rho matches nope:*."),
        ("cache", "DEGRADED", "Does not answer within 20 ms."),
        ("stale", "DEGRADED", "Not every watched key was proven in the last 30 s."),
        ("dead", "NOT OK", "Not every watched key was proven in the last 300 s."),
        (
            "dark",
            "DARK",
            "Key 'b' in postgres is no density matrix. In dark mode health does not fail for it.",
        ),
    ],
)
def test_each_state_has_its_word_and_says_why(scene: str, word: str, words: str) -> None:
    given = well(dark=scene == "dark", patterns=("nope:*",) if scene == "nothing" else ("*",))
    if scene == "nothing":
        given.listed()
    elif scene == "cache":
        given.services(cache=False)
    elif scene == "dark":
        given.found("violated", "b", dark=True)
    else:
        given.clock.now += 40 if scene == "stale" else 400
    assert heading(given) == (word, words.rstrip(".") + ".")
    assert ("Dark mode is on" in given.html()) == (scene == "dark")


def test_it_says_that_the_process_is_about_to_end() -> None:
    scene = well()
    assert "about to end" not in scene.html()
    scene.state.drain()
    assert "about to end" in scene.html()


def test_what_has_passed_and_what_holds_still() -> None:
    scene = well()
    scene.services(cache=False)
    scene.html()
    scene.services(cache=True)
    scene.services(authority=False)
    text = Document(scene.html()).text
    past = text[text.index("Since the start") :]
    assert re.search(r"authority-away connection refused 1 \S+ ! now", past)
    assert re.search(r"cache-away does not answer within 20 ms 1 \d\d:\d\d:\d\d \d\d:\d\d:\d\d", past)


def test_each_part_of_a_table_says_what_it_is() -> None:
    """For browsers that forget it where a row is shown as a card."""
    roles = {
        ("table", "table"),
        *(("thead", "rowgroup"), ("tbody", "rowgroup"), ("tr", "row")),
        *(("th", "columnheader"), ("th", "rowheader"), ("td", "cell")),
    }
    parts = [each for each in Document(well().html()).tags if each[0] in dict(roles)]
    assert {(tag, attributes.get("role")) for tag, attributes in parts} == roles
    for tag, attributes in parts:
        if tag == "th":
            assert (attributes["role"], attributes["scope"]) in (
                ("columnheader", "col"),
                ("rowheader", "row"),
            )


def test_what_is_not_known_is_said_so() -> None:
    scene = Scene()
    scene.state.prover_state("given-up", failure="killed by signal 9 <b>")
    document = Document(scene.html())
    assert "given-up" in document.text
    assert "killed by signal 9 <b>" in document.text
    assert "No key is watched yet." in document.text
    assert "None was measured yet." in document.text
    assert document.text.count("not known") >= 5


def test_audits_and_events_that_are_not_as_they_should_be() -> None:
    scene = well()
    ledger = LedgerView(known_bad=2, share_read=0.5)
    scene.extras(ledger=ledger, last_audit_at=None, events=BacklogView(publishing=True, backlog=9, dropped=4))
    text = Document(scene.html()).text
    assert "never 50 % read ✕ 2 known bad" in text
    assert "9 waiting! 4 dropped" in text
    scene.extras(events=BacklogView(publishing=False, backlog=0))
    assert "not published" in scene.html()


def test_reads_that_are_too_slow() -> None:
    scene = well()
    scene.ended(reads=(0.2,) * 1000)
    assert "! missed" in Document(scene.html()).text


@pytest.mark.parametrize("kind", ["valid", "violated"])
def test_nothing_from_outside_becomes_markup(kind: Any) -> None:
    scene = well()
    plain = Document(scene.html())
    scene.listed(*HOSTILE)
    scene.found(kind, *HOSTILE, reasons=("<script>alert(1)</script>",))
    document = Document(scene.html())
    assert {tag for tag, _ in document.tags} <= {tag for tag, _ in plain.tags} | {"code"}
    for _, attributes in document.tags:
        assert not [each for each in attributes if each.startswith("on") or each == "style"]
    text = document.text
    for key in HOSTILE:
        if key.isprintable():
            assert re.sub(r"\s+", " ", key) in text
    assert "invoice\\u202efdp.exe" in text
    assert all("\u202e" not in word for word in document.words)
    for attributes in document.attributes("a"):
        assert (attributes["href"] or "").startswith("/")


def test_the_policy_admits_this_style_and_nothing_else() -> None:
    text = well().html()
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert styles == [STYLE]
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_many_keys_are_bounded_and_the_worst_come_first() -> None:
    scene = Scene()
    keys = [f"key-{number:05}" for number in range(10_000)]
    scene.whole(*keys)
    scene.found("undecided", "key-00500")
    scene.found("violated", "key-09999")
    scene.found("corrupt", "key-08000", bound=None, trace=None)
    text = Document(scene.html()).text
    shown = re.findall(r"key-\d{5} [✓✕!] \w+", text)
    assert len(shown) == MAX_ROWS
    assert shown[:4] == [
        "key-09999 ✕ violated",
        "key-08000 ✕ corrupt",
        "key-00500 ! undecided",
        "key-00000 ✓ valid",
    ]
    assert f"And {10_000 - MAX_ROWS:,} more keys, none worse than these." in text
    assert len(scene.html()) < 300_000


def test_many_namespaces_are_bounded_and_the_worst_come_first() -> None:
    names = [f"cluster-{number:03}" for number in range(MAX_ROWS + 20)]
    scene = Scene(*names)
    for each in names:
        scene.whole("a", "b", namespace=each)
    scene.found("violated", "b", namespace="cluster-077")
    assert heading(scene) == ("NOT OK", "In cluster-077: key 'b' in postgres is no density matrix.")
    text = Document(scene.html()).text
    table = text[text.index("Namespaces") : text.index("Watched keys")]
    assert re.findall(r"cluster-\d{3}", table)[:2] == ["cluster-077", "cluster-000"]
    assert len(re.findall(r"cluster-\d{3}", table)) == MAX_ROWS
    assert "And 20 more namespaces, none worse than these." in table
    assert f"And {2 * len(names) - MAX_ROWS:,} more keys" in text


def test_a_day_is_drawn_and_told_in_words() -> None:
    scene = Scene()
    scene.day("a", every=3)
    scene.clock.now += BUCKET_SECONDS
    scene.listed("a")
    scene.found("violated", "a", bound=-0.25)
    document = Document(scene.html())
    labels = [attributes["aria-label"] or "" for attributes in document.attributes("svg")]
    assert len(labels) == 4
    assert labels[2] == (
        "One day of the λ min bound: lowest -2.5e-1, latest -2.5e-1, tolerance -1e-08. "
        "Not right in 1 quarter of an hour."
    )
    assert labels[3].startswith("One day of the trace error: largest ")
    drawn = [attributes["class"] for attributes in document.attributes("path")]
    assert (drawn.count("line"), drawn.count("over"), drawn.count("marks")) == (4, 2, 4)
    line = next(each["d"] or "" for each in document.attributes("path") if each["class"] == "line")
    assert line.count("M") == 2  # the hour in which nothing was read


def test_pictures_are_drawn_anew_where_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = well()
    scene.html()
    drawn = 0
    draw = module.Pictures._draw

    def counting(self: Any, day: Any) -> Any:
        nonlocal drawn
        drawn += 1
        return draw(self, day)

    monkeypatch.setattr(module.Pictures, "_draw", counting)
    scene.found("valid", *KEYS)
    scene.html()
    assert drawn == 0
    scene.found("valid", "b", bound=-1e-9)
    scene.html()
    assert drawn == 2  # that of the key, and of the namespace
    scene.clock.now += BUCKET_SECONDS
    scene.html()
    assert drawn == 6


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            Reason(cause="violated", message="", key="it's", namespace="x"),
            ["verify-psd", "it's", "--namespace", "x"],
        ),
        (
            Reason(cause="violated", message="", key="-k", service="cache"),
            ["verify-psd", "--from", "cache", "--", "-k"],
        ),
        (Reason(cause="undecided", message="", key="k"), ["verify-psd", "k", "--method", "eigen"]),
        (Reason(cause="violated", message=""), None),
        (Reason(cause="cache-away", message="", namespace="x"), ["doctor", "--namespace", "x"]),
        (Reason(cause="cache-differs", message="", key="k"), ["cache-warm", "--reconcile", "--dry-run"]),
        (Reason(cause="stale", message=""), None),
    ],
)
def test_the_next_command_can_be_pasted(reason: Reason, words: list[str] | None) -> None:
    command = next_command(reason)
    assert (None if command is None else shlex.split(command)[1:]) == words


def context(state: State) -> ServeContext:
    return ServeContext(state=state, options=ServeOptions(), log=Log())


async def get(route: Route, query: bytes = b"") -> Any:
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": query, "headers": []}
    return await cast(Any, route.endpoint)(Request(scope))


async def test_the_route_keeps_the_history_and_sends_strict_headers() -> None:
    scene = Scene()
    (route,) = cast("list[Route]", routes(context(scene.state)))
    assert route.path == "/"
    scene.whole("a")
    answer = await get(route)
    assert (answer.status_code, answer.media_type) == (200, "text/html")
    assert answer.headers["content-security-policy"] == POLICY
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == (
        "no-store",
        "nosniff",
    )
    text = bytes(answer.body).decode()
    assert '<meta http-equiv="refresh" content="10">' in text
    assert 'class="line"' in text
    still = bytes((await get(route, b"refresh=off")).body).decode()
    assert "http-equiv" not in still


async def test_a_page_is_made_once_for_all_who_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = well()
    made = 0
    document = module.document

    def counting(view: Any) -> Any:
        nonlocal made
        made += 1
        return document(view)

    monkeypatch.setattr(module, "document", counting)
    answers = await asyncio.gather(*(scene.page.answer() for _ in range(20)))
    assert (made, len({bytes(each.body) for each in answers})) == (1, 1)
    scene.clock.now += scene.page.LASTS_SECONDS
    await scene.page.answer()
    assert made == 2
    scene.found("violated", "b")  # what changed is shown at once
    assert b"NOT OK" in bytes((await scene.page.answer()).body)
    assert made == 3


async def test_others_are_served_while_a_large_page_is_made() -> None:
    scene = Scene()
    scene.whole(*(f"key-{number}" for number in range(1000)))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await scene.page.answer()
    task.cancel()
    assert turns > MAX_ROWS / module.PIECES_AT_ONCE
