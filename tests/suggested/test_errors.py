"""Every error of the tree is brought about, and every command it suggests is run as it was printed.

A new error class fails `test_every_error_is_brought_about` until it has a case, or a reason to have none.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from servers.postgres import PostgresServer
from servers.prometheus import Pushgateway
from servers.redis import RedisServer
from somactl.cli import app
from somactl.cli.pages import error_classes
from somactl.suggestion import Suggestion
from tests.suggested import local_cases, server_cases
from tests.suggested.local_cases import read_line
from tests.suggested.server_cases import Servers
from tests.suggested.stage import CODES, SECRET, Fault, Stage

NIGHT = bool(os.environ.get("SOMACTL_TEST_NIGHT"))
IN_BOTH_MODES = {"UsageError", "SecretExposed", "KeyNotFound", "NamespaceNotFound", "AccessDenied"}
"""By day these are brought about in both output modes, at night all are."""
WITHOUT_A_CASE = {
    "SomactlError": "a bug of somactl: what brings one about is mended",
    "ReadOnlyStore": "a bug of somactl: a dry run that writes",
    "EnvelopeError": "never raised itself",
    "BadMagic": "a file that does not begin as an envelope is an InvalidFile",
    "BadBase64": "base64 text is read from the lines of a pipe, as one of several InputsRejected",
    "StoreTimeout": "a server is waited for 30 s: tests/store/test_redis_faults.py",
    "SlotMoving": "a slot that stays half moved takes a whole cluster: tests/store/test_redis_cluster.py",
    "WorkerLost": "a scheduler is waited for 10 s: tests/audit/test_dask.py",
    "VerdictMissing": "the command line proves every rho before a store sees it",
    "Interrupted": "below, and in tests/cli/test_bad_input.py: it suggests nothing",
    "Terminated": "below: it suggests nothing",
}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, gateway_server: Pushgateway
) -> Iterator[Servers]:
    with RedisServer(tmp_path_factory.mktemp("suggested")) as server:
        yield Servers(server, postgres_server, gateway_server)


def test_every_error_is_brought_about() -> None:
    covered = {error for error, _ in [*local_cases.CASES, *server_cases.CASES]}
    assert covered.isdisjoint(WITHOUT_A_CASE)
    assert covered | WITHOUT_A_CASE.keys() == error_classes().keys()


@pytest.mark.parametrize(
    ("error", "case"), local_cases.CASES, ids=[case.__name__ for _, case in local_cases.CASES]
)
def test_what_an_error_suggests_works(stage: Stage, error: str, case: local_cases.Case) -> None:
    check(stage, error, case(stage))


@pytest.mark.parametrize(
    ("error", "case"), server_cases.CASES, ids=[case.__name__ for _, case in server_cases.CASES]
)
def test_what_an_error_of_a_server_suggests_works(
    stage: Stage, servers: Servers, error: str, case: server_cases.ServerCase
) -> None:
    check(stage, error, case(stage, servers))


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143)])
def test_a_command_that_is_ended_suggests_nothing(stage: Stage, signal: int, code: int) -> None:
    local_cases.interrupted(stage, signal, code)


def check(stage: Stage, error: str, case: Iterator[Fault]) -> None:
    """Bring the fault about, run each suggested line in a shell, and let the case say that it is better."""
    fault = next(case)
    try:
        lines = met(stage, error, fault)
        fault.mend()
        for line in lines:
            run_as_printed(stage, fault, line)
    except BaseException:
        case.close()  # type: ignore[attr-defined]
        raise
    next(case, None)


def met(stage: Stage, error: str, fault: Fault) -> list[str]:
    """The lines that the error suggests, the same in both output modes; no secret is among them."""
    result = stage.run(fault, "json")
    said = result.error
    assert said["error"] == error, result.err
    assert result.code == said["code"] == error_classes()[error].exit_code
    suggested = [line for line in (said["next"], *said["others"]) if line]
    assert suggested or said["runbook"]
    assert SECRET not in result.err
    if fault.twice and (NIGHT or error in IN_BOTH_MODES):
        printed = stage.run(fault, "table").err.splitlines()
        assert [line.removeprefix("try: ") for line in printed if line.startswith("try: ")] == suggested
        assert not [line for line in printed if SECRET in line]
        pages = [line.removeprefix("runbook: ") for line in printed if line.startswith("runbook: ")]
        assert pages == ([said["explain"]] if said["runbook"] else [])
    return [*suggested, *([said["explain"]] if said["runbook"] else [])]


def run_as_printed(stage: Stage, fault: Fault, line: str) -> None:
    command = line.split()[1]
    if command == "explain":
        assert_page(line)
        return
    done = stage.line(line, fault.env)
    allowed = {**CODES, **fault.codes}.get(command, {0})
    assert done.returncode in allowed, f"{line}\n{done.stdout}{done.stderr}"


def assert_page(line: str) -> None:
    """An `explain` line prints its page, whatever the settings are; run here, which is faster."""
    words = read_line(line)
    printed = io.StringIO()
    output = io.TextIOWrapper(io.BytesIO(), write_through=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with redirect_stdout(output), redirect_stderr(printed):
        code = app.run(words[1:])
    for number, handler in before.items():
        signal.signal(number, handler)
    assert (code, printed.getvalue()) == (0, "")
    text = output.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert text.startswith("# ")
    if any(word.startswith("KEY=") for word in words):
        assert "somactl log KEY" not in text


def test_a_class_suggests_only_what_is_data() -> None:
    for kind in error_classes().values():
        assert all(isinstance(suggestion, Suggestion) for suggestion in kind.usual_next)
