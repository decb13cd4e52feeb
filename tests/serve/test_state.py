"""What is known of all that is watched, by clocks that the tests hold."""

from __future__ import annotations

import asyncio
import time
from typing import Any, get_args

import pytest

from somactl.package_data import data_file
from somactl.report.health import Cause
from somactl.serve.clock import moment
from somactl.serve.model import (
    Beat,
    Found,
    Gone,
    Hello,
    Listed,
    Message,
    Outcome,
    Proof,
    Round,
    Service,
    Services,
    Trouble,
    WatchOptions,
    decode,
    encode,
)
from somactl.serve.state import _RUNBOOKS, State
from support.watch import DEAD, STALE, Watch


def test_nothing_is_good_before_it_is_proven() -> None:
    watch = Watch()
    assert (watch.health.ok, watch.health.rho.psd_ok, watch.causes()) == (False, None, ["starting"])
    watch.listed("a", "b")
    watch.found("valid", "a")
    assert (watch.health.ok, watch.causes()) == (False, ["starting"])
    watch.found("valid", "b")
    health = watch.health
    assert (health.ok, health.degraded, health.reasons) == (True, False, [])
    rho = health.rho
    assert (rho.psd_ok, rho.trace_error, rho.sample_version, rho.lambda_min_bound) == (True, 1e-12, 7, -1e-11)
    assert (rho.watched, rho.proven, rho.incarnation, rho.namespace) == (2, 2, "one", "default")
    assert rho.last_good_at == watch.clock.now + 1_000_000.0


def test_a_list_of_keys_proves_nothing() -> None:
    watch = Watch()
    watch.listed()
    assert watch.causes() == ["nothing-watched"]
    watch.listed("a")
    assert (watch.health.ok, watch.causes()) == (False, ["starting"])


def test_all_keys_replaced_at_once_are_unproven() -> None:
    watch = Watch()
    watch.proven("a")
    watch.listed("b")
    assert (watch.health.ok, watch.causes()) == (False, ["starting"])


def test_age_counts_from_before_the_read_and_ends_in_stale_and_dead() -> None:
    watch = Watch()
    watch.listed("a")
    began = watch.clock.now
    watch.clock.now += 10
    watch.found("valid", "a", read_at=began)
    assert watch.health.rho.age_seconds == 10
    watch.clock.now = began + STALE
    health = watch.health
    assert (health.ok, health.degraded, watch.causes()) == (True, True, ["stale"])
    watch.clock.now = began + DEAD
    health = watch.health
    assert (health.ok, health.rho.psd_ok, watch.causes()) == (False, None, ["dead"])
    assert [each.cause for each in health.since_start] == ["starting", "prover", "stale", "dead"]
    watch.proven("a")
    assert (watch.health.ok, watch.health.degraded) == (True, False)


def test_age_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {time.CLOCK_MONOTONIC: 100.0, time.CLOCK_BOOTTIME: 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: clocks[time.CLOCK_MONOTONIC])
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clocks[clock])
    state = State(WatchOptions())
    state.take(Listed(namespace="default", incarnation="one", at=moment(), new=["a"], begin=True, end=True))
    proof = Proof("a", "valid")
    state.take(Found(namespace="default", store="x", incarnation="one", read_at=moment(), proofs=[proof]))
    assert state.health().ok
    clocks[time.CLOCK_BOOTTIME] += 3600.0
    assert (state.health().ok, state.health().rho.age_seconds) == (False, 3600.0)


def test_a_result_from_the_future_is_from_now() -> None:
    watch = Watch()
    watch.listed("a")
    watch.found("valid", "a", read_at=watch.clock.now + 1e6)
    watch.clock.now += DEAD
    assert watch.causes() == ["dead"]


def test_one_key_that_is_not_read_any_more_makes_all_of_it_stale() -> None:
    watch = Watch()
    watch.proven("a", "b")
    watch.clock.now += STALE
    watch.listed("a", "b")
    watch.found("valid", "a")
    rho = watch.health.rho
    assert (watch.causes(), rho.age_seconds, rho.oldest_seconds) == (["stale"], 0, STALE)


def test_a_new_key_waits_for_its_proof_and_not_for_ever() -> None:
    watch = Watch()
    watch.proven("a")
    watch.listed("a", "b")
    health = watch.health
    assert (health.ok, health.rho.psd_ok, health.rho.watched, health.rho.proven) == (True, True, 2, 1)
    watch.clock.now += STALE
    watch.listed("a", "b")
    watch.found("valid", "a")
    assert (watch.health.ok, watch.health.rho.psd_ok, watch.causes()) == (True, None, ["stale"])
    watch.clock.now += DEAD
    watch.listed("a", "b")
    watch.found("valid", "a")
    assert (watch.health.ok, watch.causes()) == (False, ["dead"])


def test_a_key_that_is_listed_and_not_found_is_not_known() -> None:
    watch = Watch()
    watch.proven("a", "b")
    watch.found("absent", "a")
    for _ in range(2):
        watch.clock.now += DEAD / 2
        watch.listed("a", "b")
        watch.found("valid", "b")
    assert watch.causes() == ["dead"]


def test_a_key_that_was_written_is_not_proven_as_it_is() -> None:
    watch = Watch()
    watch.proven("a")
    watch.state.take(
        Listed(namespace="default", incarnation="one", at=watch.clock.now, changed=["a"], end=True)
    )
    assert watch.health.rho.proven == 0
    watch.found("valid", "a")
    assert watch.health.rho.proven == 1


@pytest.mark.parametrize(
    ("outcome", "cause", "psd_ok"),
    [
        ("violated", "violated", False),
        ("corrupt", "violated", False),
        ("undecided", "undecided", None),
        ("unreadable", "unreadable", None),
    ],
)
def test_what_is_wrong_in_the_store_fails(outcome: Outcome, cause: str, psd_ok: bool | None) -> None:
    watch = Watch()
    watch.proven("a", "b")
    good_at = watch.health.rho.last_good_at
    watch.state.take(Services("default", [Service("postgres", True)]))
    watch.clock.now += 5
    watch.found(outcome, "b")
    health = watch.health
    (reason,) = health.reasons
    assert (health.ok, health.rho.psd_ok, reason.fails) == (False, psd_ok, True)
    assert (reason.cause, reason.service, reason.key) == (cause, "postgres", "b")
    (finding,) = health.rho.findings
    assert (finding.key, finding.outcome, finding.last_good_at) == ("b", outcome, good_at)
    assert (health.rho.last_good_at, health.rho.findings_total, health.rho.proven) == (good_at, 1, 1)
    watch.clock.now += 5
    watch.found("clampable", "b")
    assert (watch.health.ok, watch.health.reasons) == (True, [])


def test_of_many_keys_the_worst_are_told_first() -> None:
    watch = Watch()
    watch.proven("a", "b", "c", "d", "e")
    watch.listed("a", "b", "c", "d", "e", "new")
    watch.found("undecided", "b")
    watch.found("violated", "e")
    watch.found("contradicting", "d", store="cache")

    def told(most: int) -> list[tuple[str, str]]:
        return [(each.key, each.outcome) for each in watch.state.worst_keys("default", most)]

    worst = [("e", "violated"), ("d", "valid"), ("d", "contradicting"), ("b", "undecided")]
    assert told(1) == worst[:1]
    assert told(2) == worst[:3]
    assert told(3) == worst
    assert told(5) == [*worst, ("new", "unreadable"), ("a", "valid")]
    assert told(100) == [*worst, ("new", "unreadable"), ("a", "valid"), ("c", "valid")]


def test_every_cause_has_a_runbook_that_stands_in_the_page_of_all() -> None:
    assert {*_RUNBOOKS} == {*get_args(Cause)}
    page = data_file("RUNBOOKS/SERVE.md").read_text()
    for cause, runbook in _RUNBOOKS.items():
        assert f"`{cause}`" in page
        assert data_file(runbook).exists()
        assert runbook == "RUNBOOKS/SERVE.md" or f"({runbook.removeprefix('RUNBOOKS/')})" in page


def test_the_runbook_stands_beside_a_violation() -> None:
    watch = Watch()
    watch.proven("a")
    watch.found("violated", "a")
    assert watch.health.reasons[0].runbook == "RUNBOOKS/RHO_VIOLATION.md"


def test_an_older_result_that_comes_late_changes_nothing() -> None:
    watch = Watch()
    watch.proven("a")
    watch.clock.now += 10
    watch.found("violated", "a")
    watch.found("valid", "a", read_at=watch.clock.now - 5)
    assert watch.causes() == ["violated"]


@pytest.mark.parametrize(("outcome", "ok"), [("violated", False), ("contradicting", False), ("stale", True)])
def test_what_is_wrong_in_the_cache_alone(outcome: Outcome, ok: bool) -> None:
    watch = Watch()
    watch.proven("a")
    watch.found("valid", "a", store="cache")
    watch.found(outcome, "a", store="cache")
    health = watch.health
    assert (health.ok, health.degraded) == (ok, ok)
    assert [reason.service for reason in health.reasons] == ["cache"]
    assert [each.store for each in health.rho.findings] == ["cache"]
    assert [each.store for each in watch.state.keys("default")] == ["postgres", "cache"]
    watch.found("absent", "a", store="cache")
    assert (watch.health.ok, watch.health.reasons) == (True, [])


def test_a_violation_in_both_names_both() -> None:
    watch = Watch()
    watch.proven("a")
    watch.state.take(Services("default", [Service("postgres", True), Service("cache", True)]))
    watch.found("violated", "a")
    watch.found("violated", "a", store="cache")
    assert {reason.service for reason in watch.health.reasons} == {"postgres", "cache"}
    watch.found("valid", "a")
    assert [reason.service for reason in watch.health.reasons] == ["cache"]


def test_a_copy_of_a_key_that_is_gone_counts_until_all_copies_were_looked_at() -> None:
    watch = Watch()
    watch.proven("a", "b")
    watch.found("violated", "b", store="cache")
    watch.clock.now += 1
    watch.listed("a")
    watch.state.take(Round(namespace="default", seconds=0.1))
    assert watch.causes() == ["violated"]
    watch.state.take(Round(namespace="default", seconds=0.1, copies_since=watch.clock.now))
    assert watch.causes() == []


def test_another_incarnation_ends_all_that_was_known() -> None:
    watch = Watch()
    watch.proven("a")
    watch.found("violated", "a", store="cache")
    watch.clock.now += 1
    watch.listed("a", incarnation="two")
    assert (watch.causes(), watch.health.rho.sample_version) == (["starting"], None)
    watch.found("valid", "a", incarnation="one", read_at=watch.clock.now - 0.5)
    assert (watch.causes(), watch.health.rho.incarnation) == (["starting"], "two")
    watch.found("valid", "a", incarnation="two")
    assert (watch.health.ok, watch.causes()) == (True, [])


def test_a_namespace_that_is_gone_fails_until_it_is_proven_again() -> None:
    watch = Watch()
    watch.proven("a")
    watch.clock.now += 1
    watch.state.take(Gone("default", watch.clock.now))
    health = watch.health
    assert (health.ok, health.rho.psd_ok, watch.causes()) == (False, None, ["namespace-gone"])
    watch.found("valid", "a", read_at=watch.clock.now - 0.5)
    assert watch.causes() == ["namespace-gone"]
    watch.clock.now += 1
    watch.proven("a", incarnation="two")
    assert watch.health.ok


def test_services_that_do_not_answer_degrade() -> None:
    watch = Watch()
    watch.proven("a")
    watch.clock.now += 1
    watch.state.take(Services("default", [Service("postgres", True), Service("cache", False, "silent")]))
    since = watch.clock.now + 1_000_000.0
    watch.clock.now += 1
    watch.state.take(Services("default", [Service("postgres", False), Service("cache", False, "silent")]))
    health = watch.health
    assert (health.ok, health.degraded) == (True, True)
    told = [(each.cause, each.service, each.message) for each in health.reasons]
    assert told == [
        ("authority-away", "postgres", "postgres does not answer"),
        ("cache-away", "cache", "silent"),
    ]
    assert [(each.service, each.up, each.since_at - since) for each in health.services] == [
        ("postgres", False, 1),
        ("cache", False, 0),
    ]
    assert health.reasons[1].since_at == since


def test_since_start_keeps_what_has_passed() -> None:
    watch = Watch()
    watch.proven("a")
    for up in (False, True, False, True):
        watch.clock.now += 1
        watch.state.take(Services("default", [Service("postgres", up)]))
    assert watch.causes() == []
    past = {each.cause: each for each in watch.health.since_start}
    assert past["authority-away"].count == 2
    assert past["authority-away"].last_at - past["authority-away"].first_at == 2
    assert "prover" in past


def test_time_that_passed_unasked_stands_in_since_start() -> None:
    watch = Watch()
    watch.proven("a")
    watch.clock.now += DEAD
    watch.proven("a")
    assert "dead" in {each.cause for each in watch.health.since_start}


def test_troubles_hold_until_the_next_round() -> None:
    watch = Watch()
    watch.proven("a")
    trouble = Trouble(cause="cache-away", message="it was emptied", service="cache")
    watch.state.take(Round(namespace="default", seconds=0.1, troubles=[trouble]))
    assert watch.causes() == ["cache-away"]
    watch.state.take(Round(namespace="default", seconds=0.1))
    assert watch.causes() == []


def test_the_prover_degrades_and_age_does_the_rest() -> None:
    watch = Watch()
    watch.proven("a")
    watch.state.prover_state("restarting", failure="killed by SIGKILL")
    health = watch.health
    assert (health.ok, health.degraded, watch.causes()) == (True, True, ["prover"])
    assert (health.prover.state, health.prover.restarts) == ("restarting", 1)
    assert health.prover.last_failure == "killed by SIGKILL"
    watch.state.take(Hello())
    assert (watch.health.degraded, watch.health.prover.restarts) == (False, 1)


def test_dark_mode_tells_a_violation_and_does_not_fail() -> None:
    watch = Watch(dark=True)
    watch.proven("a", "b")
    watch.found("violated", "a")
    watch.found("undecided", "b")
    health = watch.health
    assert (health.ok, health.dark, health.rho.psd_ok, health.degraded) == (True, True, False, True)
    watch.found("corrupt", "b")
    assert not watch.health.ok


def test_of_several_namespaces_the_worst_is_shown() -> None:
    watch = Watch(namespaces=("one", "two", "three"))
    watch.proven("a", namespace="one")
    watch.clock.now += 1
    watch.proven("a", namespace="two")
    health = watch.health
    assert (health.ok, health.rho.namespace) == (False, "three")
    watch.proven("a", namespace="three")
    health = watch.health
    assert (health.ok, health.rho.namespace) == (True, "one")
    watch.found("violated", "a", namespace="two")
    health = watch.health
    assert (health.ok, health.rho.namespace) == (False, "two")
    assert {name: each.ok for name, each in health.namespaces.items()} == {
        "one": True,
        "two": False,
        "three": True,
    }


def test_nothing_is_known_of_a_namespace_that_is_not_watched() -> None:
    watch = Watch()
    with pytest.raises(ValueError, match="other"):
        watch.listed("a", namespace="other")
    with pytest.raises(KeyError):
        watch.state.keys("other")


def test_watching_nothing_is_not_ok() -> None:
    assert not Watch(namespaces=()).health.ok


def test_ready_once_each_namespace_was_looked_at_until_it_drains() -> None:
    watch = Watch(namespaces=("one", "two"))
    watch.proven("a", namespace="one")
    assert not watch.state.ready
    watch.state.take(Round(namespace="two", seconds=0.1))
    assert watch.state.ready
    watch.state.drain()
    assert (watch.state.ready, watch.state.draining) == (False, True)


def test_changes_count_what_is_said_and_not_ages() -> None:
    watch = Watch()
    watch.proven("a")
    seen = watch.state.changes
    watch.clock.now += 5
    watch.proven("a")
    watch.state.take(Beat(1))
    watch.state.take(Services("default", [Service("postgres", True)]))
    assert watch.state.changes == seen
    watch.found("violated", "a")
    assert watch.state.changes == seen + 1
    watch.found("valid", "a")
    assert watch.state.changes == seen + 2
    watch.clock.now += STALE
    assert watch.state.changes == seen + 3


async def test_who_waits_is_told_of_results_and_of_time() -> None:
    watch = Watch()
    watch.proven("a")
    seen = watch.state.changes
    waits = [asyncio.create_task(watch.state.changed(seen)) for _ in range(2)]
    await asyncio.sleep(0)
    watch.found("violated", "a")
    assert await asyncio.gather(*waits) == [seen + 1] * 2
    watch.found("valid", "a")
    aged = asyncio.create_task(watch.state.changed(seen + 2))
    await asyncio.sleep(0)
    watch.clock.now += STALE
    assert await asyncio.wait_for(aged, 60) == seen + 3
    assert watch.causes() == ["stale"]
    drained = asyncio.create_task(watch.state.changed(seen + 3))
    await asyncio.sleep(0)
    watch.state.drain()
    assert await asyncio.wait_for(drained, 60) == seen + 4


def test_an_answer_stays_small_however_much_is_wrong() -> None:
    watch = Watch()
    keys = [f"key-{number:04}" for number in range(500)]
    watch.listed(*keys)
    watch.found("violated", *keys)
    rho = watch.health.rho
    assert (len(rho.findings), rho.findings_total, rho.proven) == (100, 500, 0)
    (reason,) = watch.health.reasons
    assert reason.message.startswith("key 'key-0000' and 499 more in postgres")


def test_latencies_and_extras() -> None:
    watch = Watch()
    assert watch.state.extras("default").reads == {}
    watch.state.take(Round(namespace="default", seconds=1, reads=[number / 100 for number in range(101)]))
    extras = watch.state.extras("default")
    assert extras.reads == {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    assert (extras.reads_counted, watch.health.prover.round_seconds) == (101, 1)


def test_listeners_hear_of_results_after_they_were_taken() -> None:
    watch = Watch()
    heard: list[Any] = []
    watch.state.listeners.append(lambda message: heard.append((type(message), watch.health.ok)))
    watch.proven("a")
    assert heard == [(Found, True), (Round, True)]


@pytest.mark.parametrize(
    "message",
    [
        Hello(),
        Beat(3),
        Services("default", [Service("postgres", False, "silent")]),
        Gone("default", 1.0),
        Listed(namespace="default", incarnation="one", at=1.0, new=["a"]),
        Found(
            namespace="default",
            store="cache",
            incarnation="one",
            read_at=1.0,
            proofs=[Proof("a", "violated", reasons=("x",))],
        ),
        Round(namespace="default", seconds=1.0, troubles=[Trouble(cause="cache-away", message="x")]),
    ],
)
def test_messages_travel_as_lines(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_what_is_told_late_is_as_old_as_it_is() -> None:
    watch = Watch()
    watch.proven("a")
    watch.clock.now += 100
    watch.listed("a", "b")
    watch.found("valid", "a")
    watch.found("valid", "b", read_at=watch.clock.now - 20)
    assert watch.health.rho.oldest_seconds == 20


def test_a_result_from_before_a_key_was_missed_does_not_bring_it_back() -> None:
    watch = Watch()
    watch.proven("a")
    watch.clock.now += 10
    watch.found("absent", "a")
    watch.found("valid", "a", read_at=watch.clock.now - 5)
    assert (watch.health.ok, watch.causes()) == (False, ["starting"])
