"""Progress: total, rate and time left where a person watches a terminal, and nothing of it elsewhere."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from servers.redis import RedisServer
from somactl.cli import output
from somactl.cli.output import ProgressPrinter
from somactl.operations.jobs.progress import Progress
from support.forkserver import BEFORE
from support.terminal import Shown, run_watched
from tests.cli.conftest import FORKED, Shell, density, environment

# With no patience a run shows at once what a long one shows after its first second.
PATIENT = """
from somactl.cli import output
output.PATIENCE_SECONDS = output.DRAW_SECONDS = {}
"""
IMPATIENT = PATIENT.format(0.0)
NO_RICH = """
import sys
sys.modules.update(dict.fromkeys([name for name in sys.modules if name.partition(".")[0] == "rich"]))
"""
RHO = json.dumps(density(2).tolist())
LINES = "".join(f'{{"key": "k{i}", "value": {RHO}}}\n' for i in range(30)).encode()
ORDER = "".join(f"k{i}\n" for i in range(30)).encode()
JOBS: dict[str, tuple[list[str], bytes, str]] = {
    "commit": (["commit"], LINES, "30/30"),
    "verify-psd": (["verify-psd", "--all"], b"", "/30"),
    "prune": (["prune", "--order-file", "-", "--batch", "10"], ORDER, "20/30"),
    "migrate-json": (["migrate-json", "--rate", "25"], LINES.replace(b'": "k', b'": "old'), "25/30"),
    "compact": (["compact", "--yes"], b"", ""),
}  # fmt: skip


def watched(
    folder: Path, words: list[str], stdin: bytes = b"", before: str = IMPATIENT, cache: str = ""
) -> Shown:
    env = environment() | {BEFORE: before} | ({"SOMACTL_CACHE": cache} if cache else {})
    return run_watched([FORKED.program, *words], folder, env, stdin=stdin)


@pytest.fixture
def filled(shell: Shell) -> Shell:
    shell.ok("commit", stdin=LINES)
    return shell


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_takes_long_shows_how_far_it_is(filled: Shell, job: str) -> None:
    words, stdin, total = JOBS[job]
    shown = watched(filled.folder, words, stdin)
    assert shown.code == 0, shown.screen
    assert total in shown.screen
    assert re.search(r"\d/s", shown.screen)
    assert "━" in shown.screen
    assert "\x1b[?25l" not in shown.screen  # killed, it must not leave a terminal without a cursor
    assert b"\x1b" not in shown.out


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("why", ["piped", "quick", "quiet"])
def test_otherwise_nothing_is_shown_and_rich_stays_out(filled: Shell, job: str, why: str) -> None:
    words, stdin, _ = JOBS[job]
    if why == "piped":
        assert b"\x1b" not in filled.ok(*words, stdin=stdin).err.encode()
        return
    # Had it imported rich, which takes long, or anything of it, the run would fail.
    before = (PATIENT.format(60.0) if why == "quick" else IMPATIENT) + NO_RICH
    shown = watched(filled.folder, [*words, *(["-q"] if why == "quiet" else [])], stdin, before)
    assert shown.code == 0, shown.screen
    assert "\x1b" not in shown.screen
    assert shown.screen == "" or why == "quick"


def test_filling_a_cache_shows_how_far_it_is(filled: Shell, redis_server: RedisServer) -> None:
    with redis_server.client() as raw:
        raw.flushdb()
    shown = watched(filled.folder, ["cache-warm"], cache=redis_server.url)
    assert shown.code == 0, shown.screen
    assert re.search(r"30/(30|\?).*30 copied", shown.screen)


def test_the_line_never_leaves_its_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(output, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(output, "DRAW_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    for columns in (20, 40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        told = ProgressPrinter(print)
        for done, total in ((1, None), (5, 9), (10**9, 10**12), (9, 3)):
            told(Progress(done, "things\x1b[2J\nof a kind", total, 10**9, "[red]none[/red]"))
        told.hide()
        lines = capfd.readouterr().err.split("\r\x1b[2K")[1:]
        assert len(lines) == 5
        for line in lines:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            assert plain.isprintable() or plain == ""
            assert len(plain) < columns


def test_elsewhere_a_remark_is_made_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOG_SECONDS", 0.0)
    said: list[str] = []
    told = ProgressPrinter(said.append)
    told(Progress(1, "keys"))
    told(Progress(4, "keys", 10, 3, "2 copied"))
    assert re.fullmatch(r"4 of 10 keys \(40 %\), 3 B, 2 copied, \d+/s, 0 s left", said[1])
    monkeypatch.setattr(output, "LOG_SECONDS", 30.0)
    told(Progress(5, "keys", 10))
    assert len(said) == 2


def test_the_share_is_all_only_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOG_SECONDS", 0.0)
    said: list[str] = []
    told = ProgressPrinter(said.append)
    for done, total in ((999, 1000), (1000, 1000), (1001, 1000), (0, 0)):
        told(Progress(done, "keys", total))
    assert [line.split(" keys ")[1].split(",")[0] for line in said] == [
        "(99 %)",
        "(100 %)",
        "(100 %)",
        "(100 %)",
    ]


def test_what_holds_the_work_back_is_shown_also_while_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "LOG_SECONDS", 0.0)
    reason = ""
    said: list[str] = []
    told = ProgressPrinter(said.append)
    told.reason = lambda: reason
    told.again()
    assert said == []  # nothing has been done yet that could be told
    told(Progress(4, "keys", 10, note="2 copied"))
    reason = "held back: the store answers in 48 ms"
    told.again()
    assert said[0].startswith("4 of 10 keys (40 %), 2 copied")
    assert said[1].startswith("4 of 10 keys (40 %), 2 copied, held back: the store answers in 48 ms")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(output, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(output, "DRAW_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    told.again()
    assert "held back: the store answers in 48 ms" in capfd.readouterr().err


def test_a_finished_line_is_taken_away_before_anything_is_printed(filled: Shell) -> None:
    shown = watched(filled.folder, *JOBS["verify-psd"][:2])
    assert shown.screen.endswith("\r\x1b[2K")


def test_one_implementation_serves_all_commands() -> None:
    root = Path(output.__file__).parents[1]
    users = [p.name for p in root.rglob("*.py") if re.search(r"rich\.|\\x1b\[2K|import rich", p.read_text())]
    assert users == ["output.py"]
