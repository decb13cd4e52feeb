"""A real Prometheus, asked what an operator asks, answers the truth after each fault.

The nightly jobs are an audit and a look at the store, each with its metrics pushed. Two nights ago all was
right, and that stands at the gateway when the fault happens.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from servers.external import ExternalPostgres, ExternalRedis
from servers.postgres import PostgresServer
from servers.process import free_port
from servers.prometheus import Prometheus, Pushgateway
from servers.redis import RedisServer
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.store.cached import Fill
from somactl.store.contract import Entry
from somactl.store.redis.cache_entries import Names, fields
from somactl.telemetry.catalogue import QUESTIONS
from support.violation import put_violation
from tests.cli.conftest import Shell, density

TWO_DAYS = 2 * 86_400.0
A_WHILE = 300.0
"""Seconds within which a time is now: the tests take longer where a machine is busy."""
VALID, SINCE, WRONG, UNREAD, LAST_NIGHT, CACHE, EVENTS, MIGRATION = QUESTIONS
OTHER_STATES = ("conflict", "finalized", "not-a-matrix", "pending", "rejected")

Answer = float | str | dict[str, float] | None
"""A number; `now` or `two days` for an age; `never` for that of 1970; `unknown` for NaN; by state; None for
no answer."""
RIGHT: dict[str, Answer] = {
    VALID: 1.0,
    SINCE: "now",
    WRONG: None,
    UNREAD: "now",
    LAST_NIGHT: 1.0,
    CACHE: 1.0,
    EVENTS: 0.0,
    MIGRATION: dict.fromkeys(("copied", *OTHER_STATES), 0.0),
}
AUDIT_FAILED: dict[str, Answer] = {SINCE: "two days", LAST_NIGHT: 0.0}


class Night:
    """One namespace in Postgres with a Redis before it, and the jobs of a night."""

    def __init__(self, shell: Shell, url: str, redis: Any, prometheus: Prometheus) -> None:
        self.shell, self.url, self.redis, self.prometheus = shell, url, redis, prometheus
        self.env = {
            "SOMACTL_STORE": url,
            "SOMACTL_CACHE": redis.url,
            "SOMACTL_PUSH_GATEWAY": prometheus.gateway.url,
            "SFM_RHO_READ_TIMEOUT_MS": "5000",
            "SOMACTL_RETRY_SECONDS": "0",
        }

    def __call__(self, *words: str, code: int | None = 0, **env: str) -> Any:
        result = self.shell(*words, env={**self.env, **env})
        assert code is None or result.code == code, (result.code, result.err, result.text)
        return result

    def begin(self) -> None:
        self("init")
        for key in "abc":
            self.shell.save(f"{key}.npy", density(4, seed=ord(key)))
        self("commit", *(f"{key}={key}.npy" for key in "abc"))
        self("cache-warm")
        report = self("verify-psd", "--all", "--output", "json").json
        for name in ("started_at", "ended_at"):
            report[name] -= TWO_DAYS
        self.shell.write("old.json", json.dumps(report))
        self("push-metrics", "--report", "old.json")

    def jobs(self, *, audit: int = 0, look: int = 0, env: dict[str, str] | None = None) -> None:
        """Those of tonight, with the exit codes that they should have."""
        self("verify-psd", "--all", "--push", code=audit, **(env or {}))
        self("push-metrics", code=look, **(env or {}))

    def corrupt(self, key: str) -> None:
        self._execute(
            "UPDATE somactl.payload SET data = overlay(data placing '\\x0000'::bytea from 200) WHERE id = "
            "(SELECT max(id) FROM somactl.revision WHERE key = $1)",
            key,
        )

    def _execute(self, sql: str, *values: Any) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute(sql, *values)
            finally:
                await connection.close()

        asyncio.run(execute())

    def forge_copy(self, key: str) -> None:
        """An intact copy of another matrix, at the version that the store has."""
        with self.redis.client() as raw:
            names = Names.of("default")
            incarnation = raw.get(names.marker).decode()
            data = serialize_matrix(density(4, seed=99), key=key)
            entry = Entry(key, 1, incarnation, "forged", 0.0, data, None, "")
            now, fraction = raw.time()
            fill = Fill(key, 1, incarnation, now + fraction / 1e6, entry, peek(data).content)
            raw.hset(names.entry(key), mapping=fields("default", fill))

    def answers(self) -> dict[str, Answer]:
        self.prometheus.settle()
        return {question: _answer(self.prometheus.ask(query)) for question, query in QUESTIONS.items()}


def _answer(found: dict[tuple[tuple[str, str], ...], float]) -> Answer:
    assert all(dict(labels).get("namespace") == "default" for labels in found), found
    by_state = {dict(labels).get("state", ""): value for labels, value in found.items()}
    if not found:
        return None
    if "" not in by_state:
        return {state: value if value == value else -1.0 for state, value in by_state.items()}
    value = by_state[""]
    if value != value:
        return "unknown"
    now = time.time()
    for word, age in (("two days", TWO_DAYS), ("never", now)):
        if abs(value - age) < A_WHILE:
            return word
    return value


@pytest.fixture
def night(
    shell: Shell,
    postgres_server: PostgresServer | ExternalPostgres,
    redis_server: RedisServer | ExternalRedis,
    pushgateway: Pushgateway,
    prometheus: Prometheus,
) -> Iterator[Night]:
    with redis_server.client() as raw:
        raw.flushdb()
    url = postgres_server.create_database()
    night = Night(shell, url, redis_server, prometheus)
    night.begin()
    yield night
    postgres_server.drop_database(url)


def nothing(night: Night) -> dict[str, Answer]:
    night.jobs()
    return {}


def violated_in_the_store(night: Night) -> dict[str, Answer]:
    put_violation(night.url, "a", cache=night.redis.url)
    night.jobs(audit=3)
    return {VALID: 0.0, WRONG: 0.0}


def corrupt_in_the_store(night: Night) -> dict[str, Answer]:
    night.corrupt("b")
    night.jobs(audit=3)
    return {VALID: 0.0, WRONG: 0.0}


def forged_in_the_cache(night: Night) -> dict[str, Answer]:
    night.forge_copy("a")
    night.jobs()
    return {CACHE: 0.0}


def outdated_in_the_cache(night: Night) -> dict[str, Answer]:
    night("commit", "a=b.npy", SOMACTL_CACHE="")
    night.jobs()
    return {CACHE: 0.0}


def store_down(night: Night) -> dict[str, Answer]:
    down = {"SOMACTL_STORE": f"postgresql://me@127.0.0.1:{free_port()}/soma"}
    night.jobs()
    night.shell.write("old.json", (night.shell.folder / "old.json").read_bytes())
    night.prometheus.gateway.wipe()
    night("push-metrics", "--report", "old.json")
    night.jobs(audit=13, look=13, env=down)
    unknown: dict[str, Answer] = {UNREAD: "unknown", CACHE: 0.0, EVENTS: "unknown"}
    return {**AUDIT_FAILED, **unknown, MIGRATION: dict.fromkeys(("copied", *OTHER_STATES), -1.0)}


def cache_down(night: Night) -> dict[str, Answer]:
    night.jobs(look=13, env={"SOMACTL_CACHE": f"redis://127.0.0.1:{free_port()}"})
    return {CACHE: 0.0}


def bad_configuration(night: Night) -> dict[str, Answer]:
    night.jobs(audit=10, look=10, env={"SOMACTL_PSD_TOLERANCE": "rubbish"})
    return {
        **AUDIT_FAILED,
        UNREAD: "unknown",
        CACHE: 0.0,
        EVENTS: "unknown",
        MIGRATION: dict.fromkeys(("copied", *OTHER_STATES), -1.0),
    }


def audit_terminated(night: Night) -> dict[str, Answer]:
    night.shell.write("pause", "")
    process = night.shell.begin(
        *("verify-psd", "--all", "--push", "--pause-file", "pause", "--jobs", "1"), env=night.env
    )
    time.sleep(1.0)  # somewhere on its way; whatever it was about to do, it did not prove all
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    night("push-metrics")
    return AUDIT_FAILED


def events_wait(night: Night) -> dict[str, Answer]:
    night("events", "enable")
    night("commit", "d=a.npy")
    night.jobs()
    return {EVENTS: 2.0}


def never_read(night: Night) -> dict[str, Answer]:
    night("init", "--new-incarnation")
    night("push-metrics")
    return {**AUDIT_FAILED, UNREAD: "never"}


def migration_under_way(night: Night) -> dict[str, Answer]:
    night.shell.write("x.json", json.dumps([[0.5, 0.0], [0.0, 0.5]]))
    night.shell.write("y.json", json.dumps([[1.1, 0.0], [0.0, -0.1]]))
    night("migrate-json", "x.json", "y.json", code=3)
    night.jobs()
    states = dict.fromkeys(("copied", *OTHER_STATES), 0.0)
    return {MIGRATION: {**states, "copied": 1.0, "rejected": 1.0}}


def gateway_down_for_a_night(night: Night) -> dict[str, Answer]:
    """The violation of that night is known with the next push, by another job."""
    put_violation(night.url, "a", cache=night.redis.url)
    down = f"http://127.0.0.1:{free_port()}"
    night("verify-psd", "--all", "--push", "--spool", "spool", code=3, SOMACTL_PUSH_GATEWAY=down)
    night("push-metrics", "--spool", "spool")
    return {VALID: 0.0, WRONG: 0.0}


def a_spot_check_after_a_violation(night: Night) -> dict[str, Answer]:
    put_violation(night.url, "a", cache=night.redis.url)
    night.jobs(audit=3)
    night("verify-psd", "b", "--push")
    return {VALID: 0.0, WRONG: 0.0}


FAULTS: tuple[Callable[[Night], dict[str, Answer]], ...] = (
    violated_in_the_store,
    corrupt_in_the_store,
    forged_in_the_cache,
    outdated_in_the_cache,
    store_down,
    cache_down,
    bad_configuration,
    audit_terminated,
    events_wait,
    never_read,
    migration_under_way,
    gateway_down_for_a_night,
    a_spot_check_after_a_violation,
)


@pytest.mark.parametrize("fault", [nothing, *FAULTS], ids=lambda fault: fault.__name__)
def test_every_question_is_answered_truthfully(
    night: Night, fault: Callable[[Night], dict[str, Answer]]
) -> None:
    truth = {**RIGHT, **fault(night)}
    found = night.answers()
    for question, answer in truth.items():
        if answer == "now":
            age = found[question]
            assert isinstance(age, float), question
            assert -A_WHILE < age < A_WHILE, question
        else:
            assert found[question] == answer, question
