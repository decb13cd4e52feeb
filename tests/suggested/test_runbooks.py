"""The commands of every runbook are carried out where its fault is, until it is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.postgres import PostgresServer
from servers.prometheus import Pushgateway
from servers.redis import RedisServer
from somactl.package_data import data_file
from somactl.suggestion import command_line, run
from support.console import commands_of, run_commands
from tests.cli.conftest import environment, with_somactl
from tests.suggested import alert_drills, canary_drills, drills, serve_drills  # noqa: F401 (all register theirs)
from tests.suggested.drills import Drill
from tests.suggested.server_cases import Servers
from tests.suggested.stage import NAMESPACE, Stage

LOOKS: dict[str, set[int]] = {
    "doctor": {0, 3, 4, 10, 13},
    "somactl config": {0, 10},
    "status": {0, 15},
    "ps -o": {0, 1},
    "fuser": {0, 1},
    "dmesg": {0, 1},
    "grep": {0, 1},
    "namespaces": {0, 13},
}
"""What commands that only look may end with: they say what they found."""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, gateway_server: Pushgateway
) -> Iterator[Servers]:
    with RedisServer(tmp_path_factory.mktemp("runbooks")) as server:
        yield Servers(server, postgres_server, gateway_server)


def test_every_page_has_a_drill() -> None:
    pages = {path.stem for path in data_file("RUNBOOKS").glob("*.md")} - {"README"}
    assert {page for page, _ in drills.DRILLS} == pages


@pytest.mark.parametrize(("page", "case"), drills.DRILLS, ids=[f"{p}-{c.__name__}" for p, c in drills.DRILLS])
def test_a_runbook_leads_out(stage: Stage, servers: Servers, page: str, case: drills.Case) -> None:
    carried_out = case(stage, servers)
    drill = next(carried_out)
    try:
        follow(stage, page, drill)
    except BaseException:
        carried_out.close()  # type: ignore[attr-defined]
        raise
    next(carried_out, None)


def follow(stage: Stage, page: str, drill: Drill) -> None:
    """Run what the page says, filled in for this place: first its looks, then, mended, what it does."""
    filled = commands_of(stage.line(explained(stage, page, drill), {}).stdout)
    looks = [command for section, command in filled if section == "Look"]
    carry_out(stage, drill, looks)
    drill.mend()
    carry_out(stage, drill, [command for section, command in filled if section != "Look"])


def explained(stage: Stage, page: str, drill: Drill) -> str:
    """The line that prints the page for this place."""
    store = {} if "SOMACTL_STORE" in stage.env else {"store": "sqlite:///my store.db"}
    words = [f"{name}={value}" for name, value in drill.values.items()]
    return command_line(run("explain", page, with_=words), {**store, "namespace": NAMESPACE})


def carry_out(stage: Stage, drill: Drill, commands: list[str]) -> None:
    chosen = [command for command in commands if not any(word in command for word in drill.passed)]
    env = with_somactl({**environment(), **stage.env})
    outputs = run_commands([*drill.before, *chosen], stage.folder, env)[len(drill.before) :]
    for command, (lines, code) in zip(chosen, outputs, strict=True):
        named = {**LOOKS, **drill.codes}
        allowed = set().union(*(codes for words, codes in named.items() if words in command)) or {0}
        assert code in allowed, f"$ {command}\n(exit code {code})\n" + "\n".join(lines)
