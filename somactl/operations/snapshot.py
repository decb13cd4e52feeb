"""How a store is at this moment, cheaply: what is counted, noted or waiting, and which services answer.

Nothing is proven and no value is read. A part that cannot be looked at is left out, and told in the warnings:
that is what a snapshot is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from somactl.core.verdict import Tolerances
from somactl.errors import NamespaceNotFound, SomactlError
from somactl.operations.audit.memory import Memory
from somactl.operations.copies import FINDINGS, STALE, compare
from somactl.operations.jobs.checkpoint import decode_note
from somactl.operations.prune.record import ORDER_PREFIX, OrderRecord, PruneJob
from somactl.report import (
    BacklogView,
    CopiesView,
    CountsView,
    LedgerView,
    MigrationSummary,
    OrdersView,
    PushReport,
    ServiceView,
    SnapshotView,
)
from somactl.store.cached import CachedStore, cached
from somactl.store.contract import Finding, Store

COPIES = 10_000
"""Copies in a cache that are compared at most."""
ORDERS = 1_000
"""Prune orders that are looked at, at most."""
PAGE_KEYS = 256

Migrations = Callable[[Store], Awaitable[list[MigrationSummary]]]
T = TypeVar("T")


async def snapshot(store: Store, tolerances: Tolerances, migrations: Migrations) -> PushReport:
    """Look at the store, and at the cache before it if there is one.

    tolerances  those of the audits whose ledger is looked at
    migrations  lists those of the store
    Exit 13: a service does not answer; 4: something could not be looked at.
    """
    return await _Look(store, tolerances, migrations).run()


@dataclass(slots=True)
class _Look:
    store: Store
    tolerances: Tolerances
    migrations: Migrations
    missed: list[str] = field(default_factory=list)

    async def run(self) -> PushReport:
        findings = await self.store.diagnose()
        seen = SnapshotView(services=_services(findings))
        report = PushReport(store=self.store.name, namespace=self.store.namespace, snapshot=seen)
        pair, down = cached(self.store), {each.store for each in seen.services if not each.up}
        authority = self.store if pair is None else pair.authority
        if authority.name not in down:
            await self._authority(authority, seen)
        if pair is None:
            seen.copies = CopiesView(compared=0)
        elif not down:
            seen.copies = await self._tried("copies", _copies(pair))
        report.warnings = [*(f"{name} does not answer" for name in sorted(down)), *self.missed]
        report.complete = not (down or self.missed)
        report.finish(13 if down else 0, 4 if self.missed else 0)
        return report

    async def _authority(self, store: Store, seen: SnapshotView) -> None:
        try:
            summary = await store.summary()
            seen.at = await store.clock()
        except NamespaceNotFound:
            self.missed.append(f"namespace {store.namespace!r} does not exist yet")
            return
        except SomactlError as exc:
            self.missed.append(f"nothing was counted: {exc.message}")
            return
        seen.counts = CountsView(
            version=summary.head.version,
            keys=summary.keys,
            tombstones=summary.tombstones,
            stored_bytes=summary.stored_bytes,
        )
        seen.events = await self._tried("events", backlog(store))
        ledger = _ledger(store, summary.head.incarnation, self.tolerances, summary.keys)
        seen.ledger = await self._tried("ledger", ledger)
        seen.orders = await self._tried("prune orders", _orders(store))
        seen.migrations = await self._tried("migrations", _migrated(self.migrations(store)))

    async def _tried(self, what: str, look: Awaitable[T]) -> T | None:
        """What it finds; None, and a warning, where it fails."""
        try:
            return await look
        except SomactlError as exc:
            self.missed.append(f"{what}: {exc.message}")
            return None


def _services(findings: Iterable[Finding]) -> list[ServiceView]:
    """Each service once, in the order in which they are named."""
    found: dict[str, ServiceView] = {}
    for finding in findings:
        view = found.setdefault(finding.service, ServiceView(store=finding.service, up=True))
        view.findings = dict(Counter(view.findings) + Counter([finding.status]))
        if finding.check == "reachable" and finding.status != "ok":
            view.up = False
    return list(found.values())


async def backlog(store: Store) -> BacklogView:
    """Events that wait to be published."""
    told = await store.publishing()
    oldest = (await store.events(told.published, 1)).events if told.backlog else ()
    return BacklogView(
        publishing=told.keep is not None,
        backlog=told.backlog,
        oldest_at=oldest[0].recorded_at if oldest else None,
        dropped=told.dropped,
    )


async def _ledger(store: Store, incarnation: str, tolerances: Tolerances, keys: int) -> LedgerView:
    """What audits that prove have noted; without any, every matrix is unread."""
    return coverage(await Memory.open(store, incarnation, asdict(tolerances), "certify"), keys)


def coverage(memory: Memory, keys: int) -> LedgerView:
    """What is noted of a namespace of so many keys."""
    return LedgerView(
        known_bad=len(memory.known_bad),
        oldest_read_at=memory.ledger.oldest_read,
        share_read=memory.ledger.share_read(keys),
        cycle_seconds=memory.ledger.cycle_seconds(keys),
    )


async def _copies(store: CachedStore) -> CopiesView:
    compared, differing = 0, Counter[str]()
    async for page in store.cache.keys():
        for start in range(0, len(page), PAGE_KEYS):
            found = await compare(store, page[start : start + PAGE_KEYS])
            compared += len(found)
            differing.update(
                one.judgement for one in found if one.judgement in (*STALE, *FINDINGS, "foreign")
            )
        if compared >= COPIES:
            return CopiesView(compared=compared, differing=dict(differing), whole=False)
    return CopiesView(compared=compared, differing=dict(differing))


async def _orders(store: Store) -> OrdersView:
    """Of orders that are not done; a commit of theirs that is not seen may still arrive."""
    backlog = unknown = seen = 0
    async for notes in store.scan_notes(ORDER_PREFIX):
        for note in (await store.read_notes([note.name for note in notes])).values():
            record = decode_note(note, OrderRecord)
            view = None
            if record.report is None:
                view = await PruneJob().status(store, record.order_id, resolve=False)
            if view is not None and view.state == "running":
                backlog += view.counts.get("beyond-limit", 0)
                unknown += view.pending_state == "unseen"
        seen += len(notes)
        if seen >= ORDERS:
            break
    return OrdersView(backlog=backlog, unknown=unknown)


_TAKEN_BACK = ("reverting", "reverted", "forgetting")


async def _migrated(listed: Awaitable[list[MigrationSummary]]) -> dict[str, int]:
    """Matrices by state, of all migrations but those that are taken back."""
    found = Counter[str]()
    for each in await listed:
        if each.phase in _TAKEN_BACK:
            continue
        outcomes = each.outcomes
        found["copied"] += outcomes.get("migrate", 0) + outcomes.get("identical", 0)
        found["finalized"] += each.originals
        for outcome in ("conflict", "rejected", "not-a-matrix"):
            found[outcome] += outcomes.get(outcome, 0)
    return dict(found)
