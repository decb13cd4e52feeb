"""What a migration remembers, as notes beside the matrices that it writes.

    migration/ID                  where it is: `State`
    migration/ID/page/000001      the rows of one batch, compressed; pages are never changed
    migration/ID/original/DIGEST  a value that `--finalize` took out of the source, as it was
    migration/ID/restored/DIGEST  says that `--revert` put it back; the original stays until `--forget`

Before a batch is committed, its page and its commit id are written down; so the next run after a crash can
ask the store what became of that very commit. One write tells of the end of a batch and the beginning of the
next, and each expects the state to be where it was left: of two runs of one migration, one stops (LockHeld).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeVar

import msgspec
import zstandard
from msgspec.structs import replace

from somactl.errors import (
    LockHeld,
    NamespaceNotFound,
    NotFound,
    OutcomeUnknown,
    StoreDamaged,
    UsageError,
    VersionConflict,
)
from somactl.legacy.source.contract import Change
from somactl.legacy.source.workspace import to_bytes, to_text
from somactl.operations.bounded import each_of, in_portions
from somactl.report import MigrateReport, MigrationRow, Tally
from somactl.store.contract import Note, Store
from somactl.suggestion import again, run

FORMAT = 1
PREFIX = "migration/"
_COMPRESSION = 3
_MAX_PAGE_BYTES = 512 << 20
_READ_BYTES = 16 << 20
_READ_NOTES = 100
_READ_AT_ONCE = 8

T = TypeVar("T", bound=msgspec.Struct)
Phase = Literal["copying", "copied", "finalizing", "finalized", "reverting", "reverted", "forgetting"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a migration: its phase, and how far it has come.

    source, name  which source it is, and what reports call it; asked: what was asked for, as JSON values
    plan        the digest of the plan that is carried out; None where none was given
    first_page  of the pass under way; pages: how many are complete in all
    begun       whether page `pages + 1` is written down and its commit perhaps sent
    settled     up to which page they were finalized. Reverting, which begins with the newest page: `dead`
                and the number of pages that are reverted
    dead        up to which page they were reverted before, and count no more
    born        tells it from one of the same id that was forgotten; "" in journals older than this field
    words       the command line's words for the source, where they can be kept: files, and `env:NAME`
    """

    format: int = FORMAT
    source: str
    name: str
    asked: dict[str, Any]
    plan: str | None = None
    phase: Phase = "copying"
    first_page: int = 1
    pages: int = 0
    begun: bool = False
    settled: int = 0
    dead: int = 0
    born: str = ""
    words: list[str] = []


class Page(msgspec.Struct, frozen=True):
    """One batch.

    commit_id  of its commit; "" where nothing had to be written
    earlier    commits of this pass that wrote rows of this page before, and of which the store lost the page
    after      the last of its keys, the bytes in hex: the next batch begins behind it
    values     how many values it had
    plain      those without a matrix, by the reason
    rows       all the others
    """

    commit_id: str
    after: str
    values: int
    plain: dict[str, Tally]
    rows: list[MigrationRow]
    earlier: list[str] = []

    @property
    def commits(self) -> set[str]:
        """All that wrote rows of it."""
        return {*self.earlier, self.commit_id} - {""}


class Original(msgspec.Struct, frozen=True):
    """A value as it was in the source, and what `--finalize` left there in its place.

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


def identify(source: str, namespace: str, asked: Mapping[str, Any]) -> str:
    """The id of the migration of `source` into `namespace` with these wishes: the same for the same."""
    text = msgspec.json.encode([source, namespace, asked], order="sorted")
    return hashlib.sha256(text).hexdigest()[:12]


class Journal:
    """One migration's notes. Every write expects the state that this object read or wrote last."""

    def __init__(self, store: Store, migration: str, state: State | None, version: int) -> None:
        self._store = store
        self.id = migration
        self._state = state
        self._version = version

    @classmethod
    async def open(cls, store: Store, migration: str) -> Journal:
        """The journal of a migration, which need not exist yet."""
        name = PREFIX + migration
        try:
            note = (await store.read_notes([name])).get(name)
        except NamespaceNotFound:  # whether the first write creates it is for the store to say
            note = None
        state = None if note is None or note.data is None else _decode(note.data, State, name)
        return cls(store, migration, state, 0 if note is None else note.version)

    @property
    def exists(self) -> bool:
        return self._state is not None

    @property
    def state(self) -> State:
        """Raises NotFound where there is no such migration."""
        if self._state is None:
            raise NotFound(
                f"no migration {self.id} is recorded in namespace {self._store.namespace!r}",
                hint="the migration's report names the id, as does the log; check --store and --namespace",
                next=run("log"),
            )
        return self._state

    async def write(self, state: State, notes: Mapping[str, bytes | None] | None = None) -> None:
        """Make `state` the state, and write `notes` with it, or nothing at all; raises LockHeld."""
        name = PREFIX + self.id
        data = msgspec.json.encode(state)
        changes = {**(notes or {}), name: data}
        try:
            self._version = (await self._store.write_notes(changes, {name: self._version}))[name]
        except VersionConflict:
            raise lock_held(self.id) from None
        except OutcomeUnknown:
            # Two runs may write the same state; the page beside it tells which of them did.
            found = await self._store.read_notes(list(changes))
            note = found.get(name)
            if note is None or note.version != self._version + 1 or not _are(found, changes):
                raise
            self._version = note.version
        self._state = state

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

    async def recover(self) -> None:
        """Settle the batch that was under way, if one was: from now on it is there or never will be."""
        state = self.state
        if not state.begun:
            return
        commit_id = (await self.page(state.pages + 1)).commit_id
        arrived = (
            not commit_id or (await self._store.commit_status(commit_id, resolve=True)).state == "committed"
        )
        await self.advance(pages=state.pages + arrived, begun=False)

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

    async def originals(self) -> AsyncIterator[Original]:
        """Every value that was taken out of the source, and neither put back nor forgotten."""
        async for notes in self._store.scan_notes(f"{PREFIX}{self.id}/original/"):
            for some in in_portions(notes, lambda note: note.size, _READ_BYTES, _READ_NOTES):
                out = await self._not_restored([note.name for note in some])
                found = await self._store.read_notes(out) if out else {}
                for name in out:
                    note = found.get(name)
                    if note is not None and note.data is not None:
                        yield _decode(note.data, Original, name)

    async def _not_restored(self, names: Sequence[str]) -> list[str]:
        """Those of these originals that `--revert` has not put back."""
        restored = await self._store.read_notes([_restored(name) for name in names])
        return [name for name in names if _restored(name) not in restored]

    async def overtaken(self) -> State | None:
        """The state that another run wrote since this object wrote or read its own; None where none has.

        Raises LockHeld where the journal is gone.
        """
        now = await Journal.open(self._store, self.id)
        if not now.exists:
            raise lock_held(self.id)
        return None if now._version == self._version else now.state

    async def originals_of(self, keys: Sequence[bytes]) -> dict[bytes, Original]:
        """Those among `keys` that were taken out before, and not put back."""
        names = {self.original_name(key): key for key in keys}
        out = await self._not_restored(list(names))
        found = await self._store.read_notes(out) if out else {}
        return {
            names[name]: _decode(note.data, Original, name)
            for name, note in found.items()
            if note.data is not None
        }

    async def taken_out(self, keys: Collection[str]) -> set[str]:
        """Those among `keys` that were taken out and not put back; their bytes are not read."""
        prefix = f"{PREFIX}{self.id}/original/"
        if not keys or not await self._is_any(prefix):
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


def put_back(original: Original) -> Change:
    """What undoes the removal of a value, unless it was changed since."""
    key = to_text(bytes.fromhex(original.key))
    return Change(key, original.left, original.data, original.expires_at, original.attributes)


def _restored(original_name: str) -> str:
    return original_name.replace("/original/", "/restored/")


def _are(found: Mapping[str, Note], changes: Mapping[str, bytes | None]) -> bool:
    there = {name: note.data for name, note in found.items()}
    return all(there.get(name) == data for name, data in changes.items())


def lock_held(migration: str) -> LockHeld:
    """Another run of this migration moved the state, or gave its commit up."""
    return LockHeld(
        f"another run of migration {migration} is under way, or has been since this one began",
        hint="let it finish; a copy of which there is no other run goes on with --resume",
        next=again(),
    )


async def recorded(store: Store) -> AsyncIterator[tuple[str, State]]:
    """Every migration of the namespace that is not forgotten."""
    async for page in store.scan_notes(PREFIX):
        for note in page:
            migration = note.name.removeprefix(PREFIX)
            if "/" not in migration:
                journal = await Journal.open(store, migration)
                if journal.exists:
                    yield migration, journal.state


async def find(store: Store, source: str, migration: str | None) -> Journal:
    """The journal of that id, or of the only migration of that source (its `identity`).

    Raises NotFound where there is none, UsageError where there are several, or it is one of another source.
    """
    if migration is None:
        known = {found: state async for found, state in recorded(store) if state.source == source}
        if len(known) > 1:
            listed = ", ".join(f"{found} ({state.phase})" for found, state in known.items())
            raise UsageError(f"there are {len(known)} migrations of this source: {listed}", hint=_NAME_IT)
        if not known:
            raise NotFound(
                f"no migration of this source is recorded in namespace {store.namespace!r}",
                hint="check --store and --namespace",
                next=again(finalize=None, revert=None, forget=None, yes=None, no_input=None, dry_run=True),
            )
        (migration,) = known
    journal = await Journal.open(store, migration)
    if source and journal.state.source != source:
        raise UsageError(f"migration {migration} is one of {journal.state.source}, not of this source")
    return journal


_NAME_IT = "name it: --migration ID"


def encode(value: Page | Original) -> bytes:
    return zstandard.ZstdCompressor(level=_COMPRESSION).compress(msgspec.msgpack.encode(value))


def _decode(data: bytes, kind: type[T], name: str) -> T:
    try:
        if kind is State:
            return msgspec.json.decode(data, type=kind)
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_PAGE_BYTES)
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zstandard.ZstdError) as exc:
        raise StoreDamaged(f"the note {name} is not what a migration wrote ({exc})") from exc
