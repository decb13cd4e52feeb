"""An audit of a namespace as a whole: what it proves, remembers and claims, whatever ends it in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, settings, strategies as st

from somactl.core.quantities import Share, Size
from somactl.core.verdict import Tolerances
from somactl.errors import (
    AccessDenied,
    LockHeld,
    NamespaceNotFound,
    StoreUnavailable,
    UsageError,
)
from somactl.operations.audit import lease, run
from somactl.operations.audit.finish import Demands, finish
from somactl.operations.audit.known_bad import Findings, findings_name
from somactl.operations.audit.ledger import Ledger, ledger_name
from somactl.operations.audit.model import Check, Tally
from somactl.operations.audit.pages import Bounds
from somactl.operations.audit.proofs import Proofs
from somactl.operations.audit.records import Records
from somactl.operations.audit.run import AuditRequest, audit_all
from somactl.operations.audit.workers import Inline
from somactl.operations.jobs.pace import Pace
from somactl.report import Acceptance, AuditScope, Checked, VerifyReport
from somactl.testing.values import envelope
from tests.audit.stores import MemoryStore, bad, good

NIGHT = 86_400.0
KEYS = [f"k{number:02}" for number in range(20)]


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for key in KEYS:
        store.put(key, good(key))
    return store


async def audit(
    store: Any,
    *,
    notes: Any = None,
    tolerances: Tolerances | None = None,
    pace: Pace | None = None,
    fail_fast: bool = False,
    accept: Callable[[Checked], Acceptance | None] = lambda checked: None,
    **request: Any,
) -> VerifyReport:
    """The finished report of one audit; the errors that it raises are raised."""
    check = Check(tolerances or Tolerances())
    tally = Tally(
        VerifyReport(method="certify", scope=AuditScope(all=not request.get("known_bad"))),
        fail_fast=fail_fast,
        accept=accept,
    )
    proofs = Proofs(Inline(store, check), tally, pace or Pace())
    records = Records(store if notes is None else notes, check, "store")
    await audit_all(store, records, AuditRequest(check, **request), proofs)
    return finish(tally.report, Demands(), ended_by=proofs.ended_by, error=proofs.error)


async def nightly(store: MemoryStore, recheck: Any = Share(0.0), **options: Any) -> VerifyReport:  # noqa: B008
    store.now += NIGHT
    return await audit(store, incremental=True, recheck=recheck, **options)


def kept(store: MemoryStore, tolerances: Tolerances | None = None) -> tuple[Ledger, dict[str, Any]]:
    """The ledger that the store holds, and its known bad keys."""
    about = asdict(tolerances or Tolerances()), "certify"
    data = store.notes.get(ledger_name(*about))
    ledger = Ledger(incarnation=store.incarnation, tolerances=about[0], method="certify")
    if data is not None:
        ledger = msgspec.json.decode(data[1], type=Ledger)
    found = store.notes.get(findings_name(*about))
    known = () if found is None else msgspec.json.decode(found[1], type=Findings).known
    return ledger, {each.key: each for each in known}


def told(report: VerifyReport) -> list[tuple[str, str]]:
    return [(each.source, each.outcome) for each in report.results]


# What changed


async def test_a_second_incremental_audit_reads_nothing_and_tells_how_many_are_unchanged(
    store: MemoryStore,
) -> None:
    first = await audit(store)
    assert (first.code, first.valid, first.psd_ok) == (0, 20, True)
    store.reads.clear()
    second = await nightly(store)
    assert second.coverage is not None
    assert (second.code, second.checked, second.coverage.unchanged, store.reads) == (0, 0, 20, {})
    assert second.complete
    assert second.psd_ok
    store.put("k07", good("k07", 1))
    store.put("new", good("new"))
    store.delete("k03")
    third = await nightly(store)
    assert third.coverage is not None
    assert store.reads == {"k07": 1, "new": 1}
    assert (third.code, third.coverage.changed, third.coverage.unchanged) == (0, 2, 18)


async def test_stricter_tolerances_and_other_methods_have_a_ledger_of_their_own(store: MemoryStore) -> None:
    store.put("k05", bad("k05"))
    loose = Tolerances(psd=0.2)
    assert (await audit(store, tolerances=loose)).code == 0
    assert (await nightly(store, tolerances=loose)).checked == 0
    strict = await nightly(store)
    assert (strict.code, strict.checked, told(strict)) == (3, 20, [("k05", "violated")])
    assert (await nightly(store, tolerances=loose)).code == 0


async def test_rotten_bytes_are_found_when_their_turn_comes(store: MemoryStore) -> None:
    await audit(store)
    store.rot("k11")
    assert (await nightly(store)).code == 0
    codes = [(await nightly(store, Share(0.25))).code for _ in range(4)]
    assert 3 in codes
    assert codes[codes.index(3) :] == [3] * (4 - codes.index(3))  # known from then on
    assert min(store.reads.values()) >= 2


async def test_deleted_keys_make_no_cycle_longer(store: MemoryStore) -> None:
    """A share of those that are left would not come round in four nights."""
    store.page = 1
    await audit(store)
    store.reads.clear()
    await nightly(store, Share(0.25))
    for key in list(store.reads):
        store.delete(key)
    reports = [await nightly(store, Share(0.25)) for _ in range(3)]
    assert store.reads.keys() == set(KEYS)
    assert [report.coverage and report.coverage.rechecked for report in reports] == [5, 5, 5]


async def test_new_keys_make_no_cycle_longer(store: MemoryStore) -> None:
    """They are in the range that is read last, and take the turn of others."""
    store.page = 200
    await audit(store)
    store.reads.clear()
    for _ in range(3):
        await nightly(store, Share(0.25))
    for number in range(100):
        store.put(f"k15-{number:02}", good(f"k15-{number:02}"))
    await nightly(store, Share(0.25))
    assert set(KEYS) <= store.reads.keys()


async def test_a_share_in_bytes(store: MemoryStore) -> None:
    await audit(store)
    store.reads.clear()
    size = store.values["k00"][2].size
    report = await nightly(store, Size(5 * size))
    assert report.coverage is not None
    assert report.coverage.rechecked == len(store.reads) in range(5, 9)
    assert report.coverage.rechecked_bytes == report.coverage.rechecked * size
    for _ in range(4):
        await nightly(store, Size(5 * size))
    assert store.reads.keys() == set(KEYS)


async def test_how_old_the_longest_unread_is_and_how_long_a_cycle_takes(store: MemoryStore) -> None:
    store.page = 5
    await audit(store)
    await nightly(store, Share(0.25))
    report = await nightly(store, Share(0.25))
    assert report.coverage is not None
    assert report.coverage.oldest_unread_seconds == pytest.approx(2 * NIGHT, rel=1e-3)
    assert report.coverage.share_read == 1.0
    assert report.coverage.cycle_seconds == pytest.approx(4 * NIGHT, rel=0.01)


async def test_what_is_proven_every_night_is_no_pace_at_which_all_are_read(store: MemoryStore) -> None:
    """A key that is written every day, or is known to be bad, brings no other one its turn."""
    store.put("k02", bad("k02"))
    await audit(store)
    for night in range(3):
        store.put("k09", good("k09", night))
        report = await nightly(store)
        assert report.coverage is not None
        assert (report.coverage.changed, report.coverage.cycle_seconds) == (2, None)


# Known bad keys


async def test_a_finding_is_one_every_night_until_it_is_mended(store: MemoryStore) -> None:
    for key in ("k02", "k09"):
        store.put(key, bad(key))
    assert told(await audit(store)) == [("k02", "violated"), ("k09", "violated")]
    store.reads.clear()
    again = await nightly(store)
    assert (again.code, again.psd_ok, told(again)) == (3, False, [("k02", "violated"), ("k09", "violated")])
    assert again.coverage is not None
    assert (again.coverage.known_bad, again.coverage.unchanged) == (2, 18)
    assert store.reads == {"k02": 1, "k09": 1}
    store.put("k02", good("k02"))
    store.now += 60
    assert told(await audit(store, known_bad=True)) == [("k09", "violated")]
    assert list(kept(store)[1]) == ["k09"]
    store.delete("k09")
    store.now += 60
    mended = await audit(store, known_bad=True)
    assert mended.coverage is not None
    assert (mended.code, mended.coverage.gone, mended.coverage.known_bad) == (0, 1, 0)
    store.now += 60
    none = await audit(store, known_bad=True)
    assert (none.code, kept(store)[1]) == (4, {})
    assert "no audit has left a key" in none.warnings[-1]
    assert (await nightly(store)).code == 0


async def test_a_deleted_finding_is_forgotten_by_the_next_audit_of_all(store: MemoryStore) -> None:
    store.put("k02", bad("k02"))
    await audit(store)
    store.delete("k02")
    report = await nightly(store)
    assert (report.code, kept(store)[1]) == (0, {})


async def test_a_finding_that_is_of_another_kind_now_is_none(store: MemoryStore) -> None:
    store.put("k05", bad("k05"))
    await audit(store)
    store.put("k05", envelope("k05", kind="matrix", n=2))
    store.now += NIGHT
    await audit(store, known_bad=True)
    assert kept(store)[1] == {}


async def test_more_bad_keys_than_are_kept_by_name(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from somactl.operations.audit import memory

    monkeypatch.setattr(memory, "MAX_KNOWN_BAD", 3)
    wrong = KEYS[5:12]
    for key in wrong:
        store.put(key, bad(key))
    for _ in range(3):
        report = await nightly(store)
        assert (report.code, [key for key, _ in told(report)]) == (3, wrong)
        assert list(kept(store)[1]) == wrong[:3]


# Faults


class Killed(BaseException):
    """The process is gone: nothing else that it does arrives."""


def killing(at: int, moment: str) -> Callable[[str], None]:
    """Ends everything at the `at`-th of those moments, and from then on."""
    count = 0

    def trip(what: str) -> None:
        nonlocal count
        count += what == moment
        if count > at:
            raise Killed

    return trip


def failing(at: int, moment: str, error: Exception) -> Callable[[str], None]:
    """Raises `error` at that moment once."""
    count = 0

    def trip(what: str) -> None:
        nonlocal count
        count += what == moment
        if what == moment and count == at + 1:
            raise error

    return trip


def claimed_although_bad(store: MemoryStore) -> list[str]:
    """The keys whose value is bad, which the ledger claims to be proven and nothing says to be bad."""
    ledger, known = kept(store)
    cursor = ledger.cursor()
    wrong = []
    for key, (version, data, _) in sorted(store.values.items()):
        proven = cursor.at(key).version
        if data == bad(key) and proven is not None and version <= proven and key not in known:
            wrong.append(key)
    return wrong


@pytest.mark.parametrize("moment", ["before notes", "after notes", "read"])
async def test_a_run_killed_anywhere_claims_no_bad_key_and_is_resumed_to_the_same_report(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)
    for key in ("k01", "k06", "k19"):
        store.put(key, bad(key))
    undisturbed = await audit(MemoryStoreCopy(store))
    for at in range(40):
        copy = MemoryStoreCopy(store)
        copy.trip = killing(at, moment)
        try:
            await audit(copy)
        except Killed:
            pass
        else:
            assert at > 3
            return
        copy.trip = lambda what: None
        assert claimed_although_bad(copy) == []
        copy.now += 2 * lease.LEASE_SECONDS
        whole = await audit(copy, resume=True)
        assert counts(whole) == counts(undisturbed)
        assert claimed_although_bad(copy) == []
        assert [key for key, _ in told(await nightly(copy))] == ["k01", "k06", "k19"]
    pytest.fail("it never came to its end")


def MemoryStoreCopy(store: MemoryStore) -> MemoryStore:  # noqa: N802
    copy = MemoryStore(store.page)
    copy.values, copy.notes, copy.version = dict(store.values), dict(store.notes), store.version
    return copy


def counts(report: VerifyReport) -> dict[str, Any]:
    """All that an audit found; not when, and how it went."""
    told = msgspec.to_builtins(report)
    for name in ("resumed", "coverage", "started_at", "ended_at", "version_started", "held_back_seconds"):
        told.pop(name)
    assert report.coverage is not None
    return told | {"changed": report.coverage.changed, "unchanged": report.coverage.unchanged}


async def test_what_changed_while_an_ended_run_was_not_at_work_is_not_claimed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)
    await audit(store)
    store.put("k01", good("k01", 1))
    store.put("k18", good("k18", 1))
    store.trip = failing(1, "read", StoreUnavailable("gone"))
    ended = await nightly(store, Share(1.0))
    assert (ended.code, ended.reached) == (13, "k15")
    store.put("k02", bad("k02"))
    store.put("k17", bad("k17"))
    resumed = await nightly(store, Share(1.0), resume=True)
    assert resumed.resumed
    assert claimed_although_bad(store) == []
    assert [key for key, _ in told(await nightly(store))] == ["k02", "k17"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreUnavailable("the server stopped", hint="start it"), 13), (NamespaceNotFound("dropped"), 15)],
)
async def test_a_store_that_goes_away_in_the_middle_leaves_the_report_of_what_was_done(
    store: MemoryStore, error: Any, code: int
) -> None:
    store.trip = failing(2, "read", error)
    report = await audit(store)
    assert (report.code, report.codes, report.complete) == (code, [4, code], False)
    assert (report.checked, report.reached, report.psd_ok) == (8, "k07", None)
    assert error.message in report.warnings[-1]
    if error.hint:
        assert error.hint in report.warnings[-1]


async def test_a_finding_before_the_store_went_away_stays_one(store: MemoryStore) -> None:
    store.put("k03", bad("k03"))
    store.trip = failing(2, "read", StoreUnavailable("gone"))
    report = await audit(store)
    assert (report.code, report.codes, report.psd_ok) == (3, [3, 4, 13], False)


async def test_a_store_that_is_away_from_the_beginning_is_the_plain_error(store: MemoryStore) -> None:
    for moment in ("head", "scan", "read"):
        store.trip = failing(0, moment, StoreUnavailable("gone"))
        with pytest.raises(StoreUnavailable):
            await audit(store)
        store.trip = lambda what: None
        assert (await audit(store)).code == 0  # and no lease is in the way


async def test_a_store_that_goes_away_while_unchanged_ranges_are_passed(store: MemoryStore) -> None:
    await audit(store)
    store.trip = failing(0, "read", StoreUnavailable("gone"))
    report = await nightly(store, Share(0.5))
    assert report.coverage is not None
    assert (report.code, report.coverage.unchanged, report.complete) == (13, 20, False)


async def test_a_namespace_that_gets_another_incarnation_ends_the_audit(store: MemoryStore) -> None:
    count = 0

    def trip(what: str) -> None:
        nonlocal count
        count += what == "read"
        if count == 3:
            store.incarnation = "two"

    store.trip = trip
    report = await audit(store)
    assert (report.code, report.complete, report.reached) == (12, False, "k07")
    store.trip = lambda what: None
    begun = await audit(store, resume=True)
    assert (begun.code, begun.resumed, begun.checked) == (0, False, 20)


async def test_one_that_gets_another_incarnation_where_nothing_was_read(store: MemoryStore) -> None:
    await audit(store)
    count = 0

    def trip(what: str) -> None:
        nonlocal count
        count += what == "scan"
        if count == 2:
            store.incarnation = "two"

    store.trip = trip
    report = await nightly(store)
    assert (report.code, report.psd_ok) == (12, None)


# A run that ends early


async def test_a_deadline_ends_it_and_resume_adds_up(store: MemoryStore) -> None:
    for key in ("k01", "k13"):
        store.put(key, bad(key))
    whole = await audit(MemoryStoreCopy(store))
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    reports = []
    for _ in range(20):
        pace = Pace(max_seconds=6.0, now=clock)
        reports.append(await audit(store, pace=pace, resume=True))
        if reports[-1].complete:
            break
    assert len(reports) > 1
    assert [report.codes for report in reports[:-1]] == [[3, 4]] * (len(reports) - 1)
    assert [report.resumed for report in reports] == [False] + [True] * (len(reports) - 1)
    assert counts(reports[-1]) == counts(whole)
    begun = await audit(store, resume=True)  # nothing is left to go on with
    assert (begun.resumed, begun.checked) == (False, 20)


class Late(Pace):
    """A pace whose time is up once so many pages were read."""

    pages = 5

    async def turn(self, stop: asyncio.Event | None = None) -> bool:
        self.pages -= 1
        return self.pages >= 0


async def test_a_deadline_after_the_last_page_came_too_late(store: MemoryStore) -> None:
    """Five pages, and the empty one behind them."""
    pace = Late()
    pace.pages = 6
    report = await audit(store, pace=pace)
    assert (report.code, report.complete, report.checked) == (0, True, 20)
    again = await audit(store, resume=True)
    assert (again.resumed, again.checked) == (False, 20)


async def test_a_deadline_that_ends_the_reading_of_the_rest_is_a_warning(store: MemoryStore) -> None:
    await audit(store)
    pace = Late()
    pace.pages = 9
    report = await nightly(store, Share(1.0), pace=pace)
    assert report.coverage is not None
    assert (report.code, report.coverage.recheck_ended_by) == (0, "--max-duration")
    assert report.coverage.rechecked in range(4, 20)
    assert "--max-duration ended the reading of 100% of the rest" in report.warnings[-1]


@pytest.mark.parametrize("recheck", [False, True])
async def test_a_signal_ends_it_and_resume_goes_on(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, recheck: bool
) -> None:
    if recheck:
        await audit(store)
        store.reads.clear()
        store.now += NIGHT
    asked = {"incremental": True, "recheck": Share(1.0)} if recheck else {}
    reached = asyncio.Event()
    reads = 0

    def trip(what: str) -> None:
        nonlocal reads
        reads += what == "read"
        if reads == 2 and not reached.is_set():
            store.pause = asyncio.Event()
            reached.set()

    store.trip = trip
    task = asyncio.create_task(audit(store, **asked))
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert store.pause is not None
    store.pause.set()
    report = await task
    assert (report.code, report.complete) == (4, False)
    assert "a signal" in report.warnings[-1]
    store.pause, store.trip = None, lambda what: None
    resumed = await audit(store, resume=True, **asked)
    assert (resumed.code, resumed.resumed) == (0, True)
    assert store.reads.keys() == set(KEYS)
    assert resumed.coverage is not None
    assert (resumed.coverage.rechecked if recheck else resumed.checked) == 20


async def test_resume_of_another_request_is_refused(store: MemoryStore) -> None:
    store.trip = failing(2, "read", StoreUnavailable("gone"))
    await audit(store)
    with pytest.raises(UsageError, match="asked for otherwise"):
        await audit(store, resume=True, incremental=True)
    assert (await audit(store, resume=True)).resumed


async def test_fail_fast(store: MemoryStore) -> None:
    for key in ("k05", "k06"):
        store.put(key, bad(key))
    report = await audit(store, fail_fast=True)
    assert (report.codes, told(report)) == ([3, 4], [("k05", "violated")])


# Users who may not write


async def test_a_user_who_may_not_write_audits_all_the_same(store: MemoryStore) -> None:
    def denied(what: str) -> None:
        if what == "before notes":
            raise AccessDenied("permission denied for table note")

    store.trip = denied
    for report in (await audit(store), await audit(store, incremental=True)):
        assert (report.code, report.checked) == (0, 20)
        assert report.coverage is not None
        assert (report.coverage.kept_in, report.coverage.not_kept) == ("", "permission denied for table note")
    other = MemoryStore()
    assert (await audit(store, notes=other)).code == 0
    report = await audit(store, notes=other, incremental=True)
    assert report.coverage is not None
    assert (report.coverage.unchanged, report.coverage.kept_in) == (20, "store")


async def test_a_reader_makes_use_of_the_ledger_that_another_user_keeps(store: MemoryStore) -> None:
    store.put("k04", bad("k04"))
    await audit(store)
    store.trip = failing(0, "before notes", AccessDenied("no"))
    report = await audit(store, incremental=True)
    assert (report.code, report.checked) == (3, 1)


# Two at once


async def test_a_second_audit_is_told_who_is_at_work(store: MemoryStore) -> None:
    store.pause = asyncio.Event()
    first = asyncio.create_task(audit(store))
    while "audit/run/all" not in store.notes:
        await asyncio.sleep(0)
    with pytest.raises(LockHeld, match=r"since .* held by process \d+ on ") as caught:
        await audit(store)
    assert caught.value.facts["holder"] == lease.holder()
    skipped = await audit(store, on_overlap="skip")
    assert (skipped.code, skipped.checked) == (4, 0)
    assert any("held by" in warning for warning in skipped.warnings)
    with pytest.raises(LockHeld):
        await audit(store, scope="1-of-2")
    said: list[str] = []
    waiting = asyncio.create_task(audit(store, on_overlap="wait", waiting=said.append))
    while not said:
        await asyncio.sleep(0)
    store.pause.set()
    assert (await first).code == 0
    assert (await waiting).code == 0
    assert "waiting: an audit is under way" in said[0]


async def test_shards_of_one_count_are_audited_at_once(store: MemoryStore) -> None:
    store.pause = asyncio.Event()
    bounds = {"1-of-2": Bounds(None, "k09"), "2-of-2": Bounds("k09", None)}
    tasks = [asyncio.create_task(audit(store, scope=s, bounds=b)) for s, b in bounds.items()]
    while not {"audit/run/1-of-2", "audit/run/2-of-2"} <= store.notes.keys():
        await asyncio.sleep(0.01)
    for scope in ("1-of-3", "all"):
        with pytest.raises(LockHeld):
            await audit(store, scope=scope)
    store.pause.set()
    assert [(await task).checked for task in tasks] == [10, 10]
    assert (await nightly(store)).checked == 0


@pytest.mark.parametrize("scopes", [["all"] * 5, ["all", "1-of-2", "1-of-3", "2-of-3"]])
async def test_of_several_that_begin_at_once_one_goes_on(store: MemoryStore, scopes: list[str]) -> None:
    """Each looks, and writes, with the others in between."""
    store.pause = asyncio.Event()

    class Slow(MemoryStore):
        async def read_notes(self, names: Any) -> Any:
            found = await super().read_notes(names)
            await asyncio.sleep(0)
            return found

    slow = Slow()
    slow.__dict__ = store.__dict__
    tasks = [asyncio.create_task(audit(slow, scope=scope)) for scope in scopes]
    done, going = await asyncio.wait(tasks, timeout=0.5)
    assert all(isinstance(task.exception(), LockHeld) for task in done)
    names = [name for name in store.notes if name.startswith("audit/run/")]
    assert len(names) == len(going)
    assert len(going) == 1 or sorted(names) == ["audit/run/1-of-3", "audit/run/2-of-3"]
    store.pause.set()
    await asyncio.wait(going)


async def test_the_lease_of_a_run_that_was_killed_ends_by_itself(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.trip = killing(2, "read")
    with pytest.raises(Killed):
        await audit(store)
    store.trip = lambda what: None
    with pytest.raises(LockHeld, match="its lease ends in"):
        await audit(store)
    store.now += lease.LEASE_SECONDS + 1
    assert (await audit(store)).code == 0


async def test_a_lease_is_renewed_while_nothing_is_proven(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.2)
    store.pause = asyncio.Event()
    first = asyncio.create_task(audit(store))
    await asyncio.sleep(0.5)  # by which it would have ended twice
    store.now += 0.5
    with pytest.raises(LockHeld):
        await audit(store)
    store.pause.set()
    assert (await first).code == 0


async def test_a_run_whose_lease_was_taken_over_ends_with_what_it_has(store: MemoryStore) -> None:
    """As a process does that was suspended for longer than its lease."""
    store.put("k01", bad("k01"))
    reads = 0

    async def take_over() -> VerifyReport:
        store.now += lease.LEASE_SECONDS + 1
        return await audit(store)

    other: list[asyncio.Task[VerifyReport]] = []

    def trip(what: str) -> None:
        nonlocal reads
        reads += what == "read"
        if reads == 2 and not other:
            other.append(asyncio.create_task(take_over()))
            store.pause = asyncio.Event()

    store.trip = trip
    first = asyncio.create_task(audit(store))
    while not other or reads < 3:
        if store.pause is not None and len(store.notes) and other:
            store.pause.set()
        await asyncio.sleep(0)
    reports = [await other[0]]
    reports.append(await first)
    assert reports[0].code == 3
    assert (reports[1].code, reports[1].codes) == (3, [3, 4, 16])
    assert "taken over" in reports[1].warnings[-1]


# Coverage, whatever happens meanwhile


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 30)),
        st.tuples(st.just("delete"), st.integers(0, 30)),
        st.tuples(st.just("bad"), st.integers(0, 30)),
        st.tuples(st.just("night"), st.just(0)),
        st.tuples(st.just("full"), st.just(0)),
        st.tuples(st.just("fault"), st.integers(0, 12)),
    ),
    max_size=20,
)


@settings(max_examples=12, phases=[Phase.generate])
@given(actions=ACTIONS, page=st.integers(1, 9), nights=st.sampled_from([2, 3, 4]))
def test_every_matrix_is_read_within_a_cycle_and_every_bad_one_is_found(
    actions: list[tuple[str, int]], page: int, nights: int
) -> None:
    asyncio.run(_cycle(actions, page, nights))


async def _cycle(actions: list[tuple[str, int]], page: int, nights: int) -> None:
    store = MemoryStore(page)
    for number in range(0, 30, 2):
        store.put(f"k{number:02}", good(f"k{number:02}"))
    await audit(store)
    read: list[set[str]] = []
    lived: list[set[str]] = []
    for action, number in [*actions, *[("night", 0)] * nights]:
        key = f"k{number:02}"
        if action in ("put", "bad"):
            store.put(key, good(key, number) if action == "put" else bad(key))
        elif action == "delete" and key in store.values:
            store.delete(key)
        elif action == "fault":
            await _with_a_fault(store, number)
        elif action == "full":
            store.now += NIGHT
            assert (await audit(store)).psd_ok is not _has_bad(store)
        elif action == "night" and store.values:
            report = await nightly(store, Share(1 / nights))
            assert report.psd_ok is not _has_bad(store)
            read.append(set(store.reads))  # with what was read since the night before
            store.reads.clear()
            lived.append(set(store.values))
            of_all = set.intersection(*lived[-nights:]) if len(lived) >= nights else set()
            assert of_all <= set.union(*read[-nights:])
        assert claimed_although_bad(store) == []


def _has_bad(store: MemoryStore) -> bool:
    return any(data == bad(key) for key, (_, data, _) in store.values.items())


async def _with_a_fault(store: MemoryStore, at: int) -> None:
    """A night that is killed, at a read or around a write of notes."""
    moment = ("read", "before notes", "after notes")[at % 3]
    store.trip = killing(at // 3, moment)
    try:
        await nightly(store, Share(0.3))
    except Killed:
        pass
    finally:
        store.trip = lambda what: None
        store.now += NIGHT
