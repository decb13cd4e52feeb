"""What an audit knows from earlier ones, and adds: the ledger, and the keys that are known to be bad.

A user who may not write them audits all the same; the report says that nothing is kept, and why.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Iterable
from dataclasses import asdict
from typing import TypeVar

from somactl.errors import CorruptValue, LockHeld, SomactlError, UsageError
from somactl.operations.audit.known_bad import KnownBad
from somactl.operations.audit.ledger import Ledger
from somactl.operations.audit.memory import Memory
from somactl.operations.audit.model import Check, Proven
from somactl.operations.audit.pages import Page
from somactl.operations.jobs.checkpoint import Notes
from somactl.report import OUTCOME_CODES, Checked

T = TypeVar("T")


class Records:
    """What this audit has found in notes, and what it adds.

    notes   None: nothing is read, and nothing kept
    place   where they are, as the report calls it
    ledger  what is claimed, with what this audit has proven so far
    before  the ledger as it was found, known_before the bad keys, and known_keys their names in order
    lost    why what is added is not kept; empty while it is. failure: the error that says so
    """

    def __init__(self, notes: Notes | None, check: Check, place: str) -> None:
        self._notes, self._check, self.place = notes, check, place
        self._memory: Memory | None = None
        self._found: list[KnownBad] = []
        self._cleared: dict[str, float] = {}
        self.lost = "" if notes else "--no-ledger"
        self.failure: SomactlError | None = None
        self.warnings: list[str] = []

    @property
    def notes(self) -> Notes | None:
        """Where things are kept; None where nothing is."""
        return None if self.lost else self._notes

    async def load(self, incarnation: str) -> None:
        """Read what earlier audits with these tolerances and this method have left in that incarnation.

        Raises SchemaMismatch, StoreUnavailable.
        """
        tolerances, method = asdict(self._check.tolerances), self._check.method
        self.ledger = Ledger(incarnation=incarnation, tolerances=tolerances, method=method)
        if self._notes is not None:
            subject = self._notes, incarnation, tolerances, method
            try:
                self._memory = await Memory.open(*subject)
            except CorruptValue as exc:
                self.warnings.append(f"the ledger is damaged, and begun anew: {exc.message}")
                self._memory = await Memory.open(*subject, anew=True)
            self.ledger = self._memory.ledger
        self.before, self.known_before = self.ledger, self.known
        self.known_keys = sorted(self.known_before)

    async def begin_anew(self, why: str) -> None:
        """Give up what is claimed, since it cannot be true."""
        assert self._memory is not None
        self.warnings.append(f"the ledger is begun anew: {why}")
        await self.attempt(self._memory.begin_anew())
        self.before = self.ledger = self._memory.ledger

    @property
    def known(self) -> dict[str, KnownBad]:
        """The keys that are known to be bad, as it was kept last."""
        return {} if self._memory is None else dict(self._memory.known_bad)

    async def attempt(self, writing: Awaitable[T]) -> T | None:
        """What `writing` gives; None where this user may not write there, or it fails otherwise: then
        nothing is kept from here on. Raises LockHeld, UsageError."""
        try:
            return await writing
        except (LockHeld, UsageError):
            raise
        except SomactlError as exc:
            self.lost, self.failure = exc.message, exc
            return None

    def note(self, page: Page, proven: Proven, *, version: int, read_at: float, now: float) -> None:
        """What was found of a page, which was listed when the namespace was at `version` or later, and read
        at `read_at` or later, but before `now`.

        Of two audits of a key the later one decides. When exactly each read it is not known: so what is bad
        counts as read at the end of that time, and what is not at its beginning.
        """
        bad = [checked for checked in proven.results if checked.outcome in OUTCOME_CODES]
        self._found += [self._known_bad(checked, now) for checked in bad]
        wrong = {checked.source for checked in bad}
        self._cleared.update((key, read_at) for key in self._expected(page) if key not in wrong)
        if page.bounds is None:
            return
        after, upto = page.bounds.after, page.bounds.upto
        if page.whole:
            self.ledger = self.ledger.record(
                after, upto, version=version, read_at=read_at, keys=page.keys, bytes=page.bytes_
            )
        else:
            self.ledger = self.ledger.caught_up(after, upto, version)

    def _expected(self, page: Page) -> Iterable[str]:
        """The known bad keys that a page would have found, were they bad still."""
        if page.bounds is None or page.recheck:
            others = (stat.key for stat in page.skipped)
            return [key for key in (*page.task.keys, *page.absent, *others) if key in self.known_before]
        begin = 0 if page.bounds.after is None else bisect_right(self.known_keys, page.bounds.after)
        end = None if page.bounds.upto is None else bisect_right(self.known_keys, page.bounds.upto)
        return self.known_keys[begin:end]

    def _known_bad(self, checked: Checked, now: float) -> KnownBad:
        verdict = checked.verdict
        return KnownBad(
            key=checked.source,
            version=checked.version or 0,
            content=checked.digest,
            outcome=checked.outcome,
            first_seen=now,
            last_seen=now,
            error=checked.error or ("; ".join(verdict.reasons) if verdict else None),
        )

    async def save(self) -> None:
        """Keep what was added, if it can be kept."""
        if self._memory is None or self.lost:
            return
        saving = self._memory.save(self.ledger, found=self._found, cleared=self._cleared)
        saved = await self.attempt(saving)
        if saved is not None:
            self.ledger, self._found, self._cleared = saved, [], {}
