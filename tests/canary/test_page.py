"""The page of a canary check in a browser: readable in light and dark, at every width, without scripts."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path

import msgspec
import pytest

from servers.chromium import Chromium
from somactl.core.canary_samples import ARMS, AnySample, Doubt, Latency
from somactl.report import CanaryHook, CanaryReport
from somactl.report.canary_distribution import distributed
from somactl.report.canary_page import document
from somactl.report.canary_page.document import STYLE
from somactl.report.page.style import policy
from support.canaries import CASES, judged, recording, spec
from support.readable import check
from support.status_page import HOSTILE

DIGEST = "sha256:" + "0" * 64
WIDTHS = (360, 768, 1280)


@cache
def report_of(case: str) -> CanaryReport:
    return judged(spec(), hostile() if case == "hostile" else CASES[case]())[0]


def hostile() -> list[AnySample]:
    """All that may come from outside, of which a key reaches the reason and a detail the troubles."""
    doubts: list[AnySample] = [
        Doubt(t=10.0 + n, arm="candidate", what="unreadable", detail=text) for n, text in enumerate(HOSTILE)
    ]
    return [*recording(seconds=20, violated_at=20, key=HOSTILE[2]), *doubts]


def page_of(case: str) -> bytes:
    report = msgspec.structs.replace(report_of(case), evidence="canary.json", evidence_digest=DIGEST)
    if case == "hostile":
        report.evidence = HOSTILE[1]
        texts = HOSTILE[:3]
        report.hooks = [CanaryHook(on="fail", command=text, ended="failed", detail=text) for text in texts]
    return document(report)


@pytest.mark.parametrize("case", ["pass", "slower", "few", "one arm", "nothing", "buckets", "hostile"])
def test_it_fits_and_is_readable(case: str, chromium: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(page_of(case))
    url = file.as_uri()
    with chromium.open(url, width=WIDTHS[0], scripts=case == "hostile") as page:
        page.run("document.querySelector('details').open = true")
        for dark in (False, True):
            page.choose(dark=dark)
            for width in WIDTHS:
                page.resize(width)
                check(page)
        assert page.messages == []
        assert page.requests == [url]
        verdict = report_of(case).verdict
        assert verdict is not None
        assert page.run("document.title") == f"{verdict.outcome}: canary-check, somactl"
        assert verdict.outcome in page.text().splitlines()[0]
        assert page.run("document.scripts.length") == 0


def test_a_screen_reader_is_told_what_the_plots_show(chromium: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(page_of("slower"))
    with chromium.open(file.as_uri(), width=360) as page:
        told = page.accessible()
        ends = page.run("document.querySelector('.line.candidate').getAttribute('d')")
    pictures = [text for role, text in told if role == "image"]
    assert len(pictures) == 2 + 4
    assert pictures[0].startswith("p95 of both arms at the end: baseline 3")
    assert pictures[1].startswith("Distribution of latencies: baseline, ")
    assert all(text.startswith("Evidence about ") for text in pictures[2:])
    headings = [text for role, text in told if role == "heading"]
    assert headings[0].strip() == "FAIL"
    assert any("latency.margin" in text for text in headings)
    assert ends.count("L") == len(report_of("slower").looks) - 1


def test_every_criterion_is_told_with_its_figures() -> None:
    text = page_of("pass").decode()
    verdict = report_of("pass").verdict
    assert verdict is not None
    for criterion in verdict.criteria:
        assert f'id="{criterion.name}"' in text
        for evidence in (criterion.failing, criterion.passing):
            if evidence is not None:
                assert f"{evidence.log_e:.2f}" in text
                assert f"{evidence.candidate.s:,} of {evidence.candidate.n:,} of the candidate" in text
    assert text.index("<h1>") < text.index("Samples, baseline") < text.index("Criteria")
    assert "of ranks" in text


def test_the_policy_admits_its_style_and_nothing_else() -> None:
    text = page_of("hostile").decode()
    found = re.findall('<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)
    assert [html.unescape(each) for each in found] == [policy(STYLE)]
    assert policy(STYLE).startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in text.partition("</head>")[0]
    assert "<script" not in text.lower()
    assert " style=" not in text
    assert "<img" not in text
    assert "http" not in text.replace("http-equiv", "").replace("http%3A//www.w3.org/2000/svg", "")


def test_it_stays_small_however_many_samples_there_are() -> None:
    samples: list[AnySample] = []
    for n in range(100_000):
        seconds = 1e-3 * (1 + n % 997)
        samples += [Latency(t=n / 100, arm=arm, seconds=seconds) for arm in ARMS]
    report = msgspec.structs.replace(report_of("pass"), distribution=distributed(samples))
    report.looks = report.looks * 1000
    assert len(document(report)) < 200_000
    assert report.distribution is not None
    assert sum(report.distribution.counts["baseline"]) == 100_000
