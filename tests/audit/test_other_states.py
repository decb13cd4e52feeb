"""What an audit makes of claims, reads and leases that cannot be about the namespace as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from somactl.core.verdict import Tolerances
from somactl.errors import StoreUnavailable
from somactl.operations.audit import lease, run
from somactl.operations.audit.model import Check, Proven, Tally
from somactl.operations.audit.pages import Bounds, Page, task_of
from somactl.operations.audit.proofs import Proofs
from somactl.operations.audit.records import Records
from somactl.operations.audit.run import AuditRequest, audit_all
from somactl.operations.audit.workers import Inline
from somactl.report import Acceptance, AuditScope, Checked, VerifyReport
from somactl.store.contract import Snapshot
from tests.audit.stores import MemoryStore, bad, good
from tests.audit.test_run import KEYS, NIGHT, Killed, audit, failing, kept, killing, nightly, told

YEAR = 365 * NIGHT


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for key in KEYS:
        store.put(key, good(key))
    return store


async def test_what_a_replica_answers_proves_nothing(store: MemoryStore) -> None:
    class Replica(MemoryStore):
        async def read_many(self, keys: Sequence[str]) -> Snapshot:
            return replace(await store.read_many(keys), version=store.version - 1)

    check = Check(Tolerances())
    proofs = Proofs(
        Inline(Replica(), check), Tally(VerifyReport(method="certify", scope=AuditScope(all=True)))
    )
    await audit_all(store, Records(store, check, "store"), AuditRequest(check), proofs)
    assert isinstance(proofs.error, StoreUnavailable)
    assert "a replica or a copy answered" in proofs.error.message
    assert [each.version for each in kept(store)[0].ranges] == [None]


async def test_a_ledger_of_later_versions_than_there_are_is_begun_anew(store: MemoryStore) -> None:
    """As one in a file is, after an older copy of the database was put back."""
    notes = MemoryStore()
    store.put("k03", bad("k03"))
    await audit(store, notes=notes)
    copy = MemoryStore()
    for key in KEYS[:10]:
        copy.put(key, good(key))
    report = await nightly(copy, notes=notes)
    assert (report.code, report.checked) == (0, 10)
    assert any("an older state was put back" in warning for warning in report.warnings)
    copy.put("k05", bad("k05"))  # a version that the ledger had claimed
    report = await nightly(copy, notes=notes)
    assert (told(report), report.checked) == ([("k05", "violated")], 1)
    assert not report.warnings


async def test_a_claim_of_another_audit_that_is_ahead_of_this_one_is_believed(store: MemoryStore) -> None:
    """It has proven what was written after this one asked for the version."""
    await audit(store)
    heads = 0

    def written_meanwhile(what: str) -> None:
        nonlocal heads
        heads += what == "head"
        if what == "read notes" and heads == 1 and store.version == 20:
            store.put("k05", good("k05", 1))
            name = next(name for name in store.notes if name.startswith("audit/ledger/"))
            version, data = store.notes[name]
            store.notes[name] = version + 1, data.replace(b"[null,20,", b"[null,21,")

    store.trip = written_meanwhile
    report = await nightly(store)
    assert store.version == 21
    assert (report.checked, report.warnings) == (0, [])


async def test_reads_in_the_future_are_not_believed(store: MemoryStore) -> None:
    """The store's clock was ahead for a night: what was read then would not be read again for years."""
    store.now += YEAR
    await audit(store)
    store.now -= YEAR
    report = await nightly(store)
    assert report.checked == 20
    assert any("reads in the future" in warning for warning in report.warnings)
    report = await nightly(store)
    assert (report.checked, report.warnings) == (0, [])


async def test_a_lease_that_ends_in_years_holds_nothing_up(store: MemoryStore) -> None:
    store.now += YEAR
    store.trip = killing(2, "read")
    with pytest.raises(Killed):
        await audit(store)
    store.trip = lambda what: None
    store.now -= YEAR
    assert (await audit(store)).code == 0
    assert lease.CLOCK_SLACK < YEAR


async def test_of_two_that_read_a_key_at_once_the_one_that_found_something_counts(store: MemoryStore) -> None:
    """One began earlier, and read the key later: after it rotted."""
    check = Check(Tolerances())
    stat = store.values["k05"][2]
    page = Page(Bounds(), task_of([stat]), {"k05": stat}, keys=1)
    slow, fast = (Records(store, check, "store") for _ in range(2))
    for records in (slow, fast):
        await records.load(store.incarnation)
    rotten = Proven(results=[Checked(source="k05", outcome="corrupt")])
    slow.note(page, rotten, version=20, read_at=store.now, now=store.now + 10)
    await slow.save()
    fast.note(page, Proven(valid=1, results=[]), version=20, read_at=store.now + 2, now=store.now + 3)
    fast._cleared["k05"] = store.now + 2
    await fast.save()
    assert kept(store)[1].keys() == {"k05"}


async def test_resume_after_fail_fast_tells_what_the_page_had_besides(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)
    for key in ("k05", "k06"):
        store.put(key, bad(key))
    assert told(await audit(store, fail_fast=True)) == [("k05", "violated")]
    resumed = await audit(store, resume=True)
    assert told(resumed) == [("k05", "violated"), ("k06", "violated")]
    assert (resumed.checked, resumed.valid, resumed.resumed) == (20, 18, True)


async def test_resume_does_not_go_on_with_what_another_file_accepted(store: MemoryStore) -> None:
    """Nor refuse to: that file changes from day to day, and the nightly line always says --resume."""
    said: list[str] = []

    async def ended(**request: Any) -> VerifyReport:
        store.trip = failing(2, "read", StoreUnavailable("gone"))
        report = await audit(store, accept=accepts, **request)
        store.trip = lambda what: None
        return report

    store.put("k01", bad("k01"))
    assert (await ended(accepted="1" * 64)).accepted == {"violated": 1}
    resumed = await audit(store, resume=True, waiting=said.append)
    assert (resumed.code, resumed.accepted, resumed.resumed) == (3, {}, False)
    assert said == ["other findings are accepted than were then: the audit begins anew"]
    await ended(accepted="1" * 64)
    resumed = await audit(store, accept=accepts, resume=True, accepted="1" * 64)
    assert (resumed.code, resumed.accepted, resumed.resumed) == (0, {"violated": 1}, True)


def accepts(checked: Checked) -> Acceptance:
    return Acceptance(
        state="accepted",
        owner="ana",
        reason="known",
        until="2099-01-31",
        expires=4e9,
        digest="",
        outcome=None,
    )
