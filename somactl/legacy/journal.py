"""What a migration remembers, as notes beside the matrices that it writes.

    migration/ID                  where it is: `State`
    migration/ID/page/000001      the rows of one batch, compressed; pages are never changed
    migration/ID/original/DIGEST  a value that finalizing took out of the source, as it was
    migration/ID/restored/DIGEST  says that reverting put it back; the original stays until it is forgotten

Before a batch is committed, its page and its commit id are written down; so a run after a crash can ask the
store what became of that very commit. One write tells of the end of a batch and the beginning of the next,
and each expects the state to be where it was left: of two runs of one migration, one stops (LockHeld).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
import zstandard
from msgspec.structs import replace

from somactl.core.portions import in_portions
from somactl.errors import LockHeld, NotFound, StoreDamaged
from somactl.legacy.source.contract import Change
from somactl.legacy.source.workspace import to_bytes, to_text
from somactl.operations.bounded import each_of
from somactl.operations.jobs.checkpoint import Checkpoint, arrived
from somactl.report import MigrateReport, MigrationRow, MigrationSummary, Tally
from somactl.store.contract import Note, Store
from somactl.suggestion import run

FORMAT = 1
PREFIX = "migration/"
_COMPRESSION = 3
_MAX_PAGE_BYTES = 512 << 20
_READ_BYTES = 16 << 20
_READ_NOTES = 100
_READ_AT_ONCE = 8

T = TypeVar("T", bound="Page | Original")
Phase = Literal["copying", "copied", "finalizing", "finalized", "reverting", "reverted", "forgetting"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a migration: its phase, and how far it has come.

    source, name  which source it is, and what reports call it; asked: the request as it is on the wire
    born        tells it from one of the same id that was forgotten
    words       the command line's words for the source, where they can be kept
    plan        the digest of the plan that is carried out; None where none was given
    first_page  of the pass under way; pages: how many are complete in all
    begun       whether page `pages + 1` is written down and its commit perhaps sent
    settled     up to which page they were finalized. Reverting, which begins with the newest page: `dead`
                and the number of pages that are reverted
    dead        up to which page they were reverted before, and count no more
    """

    format: int = FORMAT
    source: str
    name: str
    asked: dict[str, Any]
    born: str
    words: list[str] = []
    plan: str | None = None
    phase: Phase = "copying"
    first_page: int = 1
    pages: int = 0
    begun: bool = False
    settled: int = 0
    dead: int = 0


class Page(msgspec.Struct, frozen=True):
    """One batch.

    commit_id  of its commit; "" where nothing had to be written
    after      the last of its keys, the bytes in hex: the next batch begins behind it
    values     how many values it had
    plain      those without a matrix, by the reason
    rows       all the others
    earlier    commits of this pass that wrote rows of this page before, and of which the store lost the page
    so_far     how many matrices (and values without one) ended how in this pass, this page included
    """

    commit_id: str
    after: str
    values: int
    plain: dict[str, Tally]
    rows: list[MigrationRow]
    earlier: list[str] = []
    so_far: dict[str, int] = {}

    @property
    def commits(self) -> set[str]:
        """All that wrote rows of it."""
        return {*self.earlier, self.commit_id} - {""}

    @property
    def last_key(self) -> str:
        return to_text(bytes.fromhex(self.after))


class Original(msgspec.Struct, frozen=True):
    """A value as it was in the source, and what finalizing left there in its place.

    key         its bytes in hex
    data        as it was
    left        what was put there; None where the value was removed
    expires_at  when the source would have removed it by itself
    attributes  what else the source has to give it back; see `Value`
    """

    key: str
    data: bytes
    left: bytes | None
    expires_at: float | None = None
    attributes: str = ""

    @property
    def put_back(self) -> Change:
        """What undoes the removal of the value, unless it was changed since."""
        key = to_text(bytes.fromhex(self.key))
        return Change(key, self.left, self.data, self.expires_at, self.attributes)


class Journal:
    """One migration's notes. Every write expects the state that this object read or wrote last."""

    def __init__(self, store: Store, migration: str, checkpoint: Checkpoint[State]) -> None:
        self._store = store
        self.id = migration
        self._checkpoint = checkpoint

    @classmethod
    async def open(cls, store: Store, migration: str) -> Journal:
        """The journal of a migration, which need not exist yet."""
        taken = partial(lock_held, migration)
        return cls(store, migration, await Checkpoint.open(store, PREFIX + migration, State, taken))

    @property
    def exists(self) -> bool:
        return self._checkpoint.state is not None

    @property
    def state(self) -> State:
        """Raises NotFound where there is no such migration."""
        if self._checkpoint.state is None:
            raise NotFound(
                f"no migration {self.id} is recorded in namespace {self._store.namespace!r}",
                hint="check the id, --store and --namespace",
                next=run("migration ls"),
            )
        return self._checkpoint.state

    async def write(self, state: State, notes: Mapping[str, bytes | None] | None = None) -> None:
        """Make `state` the state, and write `notes` with it, or nothing at all; raises LockHeld."""
        await self._checkpoint.save(state, notes)

    async def overtaken(self) -> State | None:
        """The state that another run wrote since; None where none did. Raises LockHeld where it is gone."""
        return await self._checkpoint.overtaken()

    async def advance(self, **changes: Any) -> None:
        await self.write(replace(self.state, **changes))

    def report(self, phase: Phase | Literal["forgotten"]) -> MigrateReport:
        """A report about this migration, to be filled."""
        return MigrateReport(
            store=self._store.name,
            namespace=self._store.namespace,
            source=self.state.name,
            migration=self.id,
            phase=phase,
        )

    def page_name(self, number: int) -> str:
        return f"{PREFIX}{self.id}/page/{number:06d}"

    def original_name(self, key: bytes) -> str:
        return f"{PREFIX}{self.id}/original/{hashlib.sha256(key).hexdigest()}"

    def restored_name(self, key: bytes) -> str:
        return _restored(self.original_name(key))

    async def pages(self, first: int) -> AsyncIterator[Page]:
        """Every complete page from `first` on."""
        for number in range(first, self.state.pages + 1):
            yield await self.page(number)

    async def page(self, number: int) -> Page:
        """Raises StoreDamaged where it is gone."""
        name = self.page_name(number)
        note = (await self._store.read_notes([name])).get(name)
        if note is None or note.data is None:
            raise StoreDamaged(
                f"page {number} of migration {self.id} is gone from the store",
                hint="restore the store from a backup; the source has lost nothing that is not kept here",
            )
        return _decode(note.data, Page, name)

    async def resolve(self) -> None:
        """Learn what became of the batch that was under way: from now on it is there or never will be."""
        state = self.state
        if not state.begun:
            return
        commit_id = (await self.page(state.pages + 1)).commit_id
        is_there = not commit_id or await arrived(self._store, commit_id) is not None
        await self.advance(pages=state.pages + is_there, begun=False)

    async def originals(self) -> AsyncIterator[Original]:
        """Every value that was taken out of the source, and neither put back nor forgotten."""
        async for notes in self._store.scan_notes(f"{PREFIX}{self.id}/original/"):
            for some in in_portions(notes, lambda note: note.size, _READ_BYTES, _READ_NOTES):
                for original in (await self._read_originals([note.name for note in some])).values():
                    yield original

    async def originals_of(self, keys: Sequence[bytes]) -> dict[bytes, Original]:
        """Those among `keys` that were taken out before, and not put back."""
        names = {self.original_name(key): key for key in keys}
        return {names[name]: original for name, original in (await self._read_originals(list(names))).items()}

    async def _read_originals(self, names: Sequence[str]) -> dict[str, Original]:
        out = await self._not_restored(names)
        found = await self._store.read_notes(out) if out else {}
        notes = [(name, found[name].data) for name in out if name in found]
        return {name: _decode(data, Original, name) for name, data in notes if data is not None}

    async def _not_restored(self, names: Sequence[str]) -> list[str]:
        """Those of these originals that were not put back."""
        restored = await self._store.read_notes([_restored(name) for name in names])
        return [name for name in names if _restored(name) not in restored]

    async def taken_out(self, keys: Collection[str]) -> set[str]:
        """Those among `keys` that were taken out and not put back; their bytes are not read."""
        if not keys or not await self._is_any(f"{PREFIX}{self.id}/original/"):
            return set()
        names = {self.original_name(to_bytes(key)): key for key in keys}
        there = await each_of(self._is_any, names, at_once=_READ_AT_ONCE)
        found = [name for name, is_there in zip(names, there, strict=True) if is_there]
        out: set[str] = set()
        for start in range(0, len(found), _READ_NOTES):
            out.update(await self._not_restored(found[start : start + _READ_NOTES]))
        return {names[name] for name in out}

    async def _is_any(self, prefix: str) -> bool:
        async with aclosing(self._store.scan_notes(prefix)) as pages:  # type: ignore[type-var]
            return await anext(pages, None) is not None


def lock_held(migration: str) -> LockHeld:
    """The error of a run that finds the state elsewhere than it left it, or its commit given up."""
    return LockHeld(
        f"another run of migration {migration} is under way, or has been since this one began",
        hint="let it finish; a copy of which there is no other run goes on with --resume",
        next=run("migration show", migration),
    )


async def recorded(store: Store) -> list[MigrationSummary]:
    """Every migration of the namespace that is not forgotten, by its id."""
    listed: dict[str, list[Note]] = {}
    async for notes in store.scan_notes(PREFIX):
        for note in notes:
            listed.setdefault(note.name.removeprefix(PREFIX).partition("/")[0], []).append(note)
    now = await store.clock()
    found = [await _summary(await Journal.open(store, name), notes, now) for name, notes in listed.items()]
    return sorted((each for each in found if each is not None), key=lambda each: each.migration)


async def _summary(journal: Journal, notes: Sequence[Note], now: float) -> MigrationSummary | None:
    """None for one that is forgotten at this moment."""
    if not journal.exists:
        return None
    state = journal.state
    last = await journal.page(state.pages) if state.pages >= state.first_page else None
    parts = [note.name.split("/")[2:3] for note in notes]
    changed_at = max(note.written_at for note in notes)
    return MigrationSummary(
        migration=journal.id,
        phase=state.phase,
        source=state.name,
        batches=state.pages,
        outcomes={} if last is None else last.so_far,
        originals=parts.count(["original"]) - parts.count(["restored"]),
        began_at=min(note.written_at for note in notes),
        changed_at=changed_at,
        age_seconds=now - changed_at,
    )


def encode(value: Page | Original) -> bytes:
    return zstandard.ZstdCompressor(level=_COMPRESSION).compress(msgspec.msgpack.encode(value))


def _decode(data: bytes, kind: type[T], name: str) -> T:
    try:
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_PAGE_BYTES)
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zstandard.ZstdError) as exc:
        raise StoreDamaged(f"the note {name} is not what a migration wrote ({exc})") from exc


def _restored(original_name: str) -> str:
    return original_name.replace("/original/", "/restored/")
