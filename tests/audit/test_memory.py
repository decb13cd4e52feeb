"""What audits remember together: nothing of it is lost, torn, or claimed although another found otherwise."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given, settings, strategies as st

from somactl.errors import CorruptValue, LockHeld, OutcomeUnknown, SchemaMismatch, VersionConflict
from somactl.operations.audit import memory as module
from somactl.operations.audit.known_bad import MAX_ERROR_CHARACTERS, KnownBad, findings_name, updated
from somactl.operations.audit.ledger import Ledger, ledger_name
from somactl.operations.audit.memory import Memory
from somactl.operations.jobs.checkpoint import Checkpoint, Notes
from somactl.operations.jobs.notes_file import NotesFile
from somactl.store.contract import Note
from somactl.store.notes import refuse_note_conflicts
from support.sqlite_backend import SqliteBackend

EXAMPLES = 10_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 60
TOLERANCES = {"psd": 1e-8, "trace": 1e-8, "hermitian": 1e-8}
NAMES = ledger_name(TOLERANCES, "certify"), findings_name(TOLERANCES, "certify")


class Dictionary:
    """Notes in memory."""

    def __init__(self) -> None:
        self.there: dict[str, Note] = {}

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        return {name: self.there[name] for name in names if name in self.there}

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        versions = {name: note.version for name, note in self.there.items()}
        refuse_note_conflicts(expected or {}, versions)
        written = {name: 0 if data is None else versions.get(name, 0) + 1 for name, data in changes.items()}
        for name, data in changes.items():
            self.there.pop(name, None)
            if data is not None:
                self.there[name] = Note(name, written[name], len(data), 0.0, data)
        return written

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        yield list(self.there.values())


class Stumbling(Dictionary):
    """The next writes of notes do not go as they should, in turn: another writer comes `first`, or no reply
    comes to a write that was `done`, or `lost`."""

    def __init__(self, *stumbles: str) -> None:
        super().__init__()
        self.stumbles = list(stumbles)

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        stumble = self.stumbles.pop(0) if self.stumbles else ""
        if stumble == "first":
            other = await remembered(Stumbling.of(self))
            await other.save(read(other.ledger, "m", None, at=7.0), found=[bad("z", 7.0)])
        if stumble != "lost":
            written = await super().write_notes(changes, expected)
        if stumble in ("done", "lost"):
            raise OutcomeUnknown("no reply came", commit_id="")
        return written

    @staticmethod
    def of(notes: Dictionary) -> Dictionary:
        plain = Dictionary()
        plain.there = notes.there
        return plain


@pytest_asyncio.fixture(params=["store", "file"])
async def notes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Notes]:
    if request.param == "file":
        file = NotesFile(str(tmp_path / "ledger.json"))
        yield file
        await file.close()
        return
    store = SqliteBackend(tmp_path / "store.db").open()
    yield store
    await store.close()


async def remembered(notes: Notes, incarnation: str = "i1", **options: Any) -> Memory:
    return await Memory.open(notes, incarnation, TOLERANCES, "certify", **options)


def read(ledger: Ledger, after: str | None, upto: str | None, *, at: float, version: int = 5) -> Ledger:
    return ledger.record(after, upto, version=version, read_at=at, keys=10, bytes=100)


def bad(key: str, at: float, **fields: Any) -> KnownBad:
    return KnownBad(
        **{"key": key, "version": 3, "content": "c0ffee", "outcome": "violated", **fields},
        first_seen=at,
        last_seen=at,
    )


def claims(ledger: Ledger) -> list[tuple[str | None, int | None, float | None]]:
    return [(each.upto, each.version, each.read_at) for each in ledger.ranges]


async def test_what_was_saved_is_there_for_the_next_run(notes: Notes) -> None:
    memory = await remembered(notes)
    assert (claims(memory.ledger), memory.known_bad) == ([(None, None, None)], {})
    ledger = await memory.save(read(memory.ledger, None, "m", at=1.0), found=[bad("a", 1.0)])
    ledger = await memory.save(read(ledger, "m", None, at=500.0))
    again = await remembered(notes)
    assert again.ledger == memory.ledger == ledger
    assert claims(ledger) == [("m", 5, 1.0), (None, 5, 500.0)]
    assert again.known_bad == memory.known_bad == {"a": bad("a", 1.0)}


async def test_a_note_of_findings_goes_with_the_last_of_them(notes: Notes) -> None:
    memory = await remembered(notes)
    await memory.save(memory.ledger, found=[bad("a", 1.0)])
    assert set(await notes.read_notes(NAMES)) == set(NAMES)
    await memory.save(memory.ledger, cleared={"a": 2.0})
    assert set(await notes.read_notes(NAMES)) == {NAMES[0]}
    await memory.save(memory.ledger, found=[bad("a", 3.0)])
    assert (await remembered(notes)).known_bad == {"a": bad("a", 3.0)}


async def test_another_incarnation_begins_anew(notes: Notes) -> None:
    memory = await remembered(notes)
    await memory.save(read(memory.ledger, None, None, at=1.0), found=[bad("a", 1.0)])
    restored = await remembered(notes, "i2")
    assert (claims(restored.ledger), restored.known_bad) == ([(None, None, None)], {})
    await restored.save(read(restored.ledger, None, "m", at=2.0))
    assert set(await notes.read_notes(NAMES)) == {NAMES[0]}
    assert (await remembered(notes, "i2")).ledger == restored.ledger
    assert claims((await remembered(notes, "i1")).ledger) == [(None, None, None)]


async def test_other_tolerances_and_methods_have_notes_of_their_own(notes: Notes) -> None:
    memory = await remembered(notes)
    await memory.save(read(memory.ledger, None, None, at=1.0), found=[bad("a", 1.0)])
    for tolerances, method in (({**TOLERANCES, "psd": 1e-6}, "certify"), (TOLERANCES, "eigenvalues")):
        other = await Memory.open(notes, "i1", tolerances, method)
        assert (claims(other.ledger), other.known_bad) == ([(None, None, None)], {})
        await other.save(other.ledger)
    assert (await remembered(notes)).ledger == memory.ledger


async def test_audits_at_once_lose_nothing_of_each_other(notes: Notes) -> None:
    places: list[str | None] = [None, *"bcdefg", None]
    memories = [await remembered(notes) for _ in places[1:]]
    saves = [
        memory.save(
            read(memory.ledger, after, upto, at=100.0 * number, version=number + 1),
            found=[bad(f"{after or 'a'}-{number}", 1.0)],
        )
        for number, (memory, after, upto) in enumerate(zip(memories, places, places[1:], strict=False))
    ]
    await asyncio.gather(*saves)
    last = await remembered(notes)
    assert claims(last.ledger) == [
        (upto, number + 1, 100.0 * number) for number, upto in enumerate(places[1:])
    ]
    assert len(last.known_bad) == 7


@pytest.mark.parametrize(
    "stumbles", [["first"], ["first", "first"], ["done"], ["lost"], ["first", "lost", "first"]]
)
async def test_a_save_that_is_overtaken_or_gets_no_reply_is_made_once(
    stumbles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    notes = Stumbling(*stumbles)
    memory = await remembered(notes)
    ledger = await memory.save(read(memory.ledger, None, "m", at=1.0), found=[bad("a", 1.0)])
    assert notes.stumbles == []
    again = await remembered(notes)
    assert (again.ledger, again.known_bad) == (ledger, memory.known_bad)
    rest = (None, 5, 7.0) if "first" in stumbles else (None, None, None)
    assert rest in claims(ledger)
    assert claims(ledger)[0] == ("m", 5, 1.0) if "first" not in stumbles else True
    assert set(again.known_bad) == ({"a", "z"} if "first" in stumbles else {"a"})
    await memory.save(read(ledger, "x", None, at=900.0))  # at the version that was found


async def test_a_store_that_never_replies_and_one_that_is_always_faster_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    memory = await remembered(Stumbling("lost", "lost"))
    with pytest.raises(OutcomeUnknown):
        await memory.save(memory.ledger)
    notes = Stumbling(*["first"] * module.TRIES)
    memory = await remembered(notes)
    with pytest.raises(VersionConflict):
        await memory.save(memory.ledger)
    assert notes.stumbles == []


@pytest.mark.parametrize("name", NAMES)
async def test_damaged_notes_are_refused_and_may_be_begun_anew_together(notes: Notes, name: str) -> None:
    memory = await remembered(notes)
    await memory.save(read(memory.ledger, None, None, at=1.0), found=[bad("a", 1.0)])
    await notes.write_notes({name: b'{"format": 1}'})
    with pytest.raises(CorruptValue, match=name):
        await remembered(notes)
    memory = await remembered(notes, anew=True)
    assert (claims(memory.ledger), memory.known_bad) == ([(None, None, None)], {})
    await memory.save(read(memory.ledger, None, "m", at=2.0))
    assert claims((await remembered(notes)).ledger) == [("m", 5, 2.0), (None, None, None)]


@pytest.mark.parametrize("name", NAMES)
async def test_notes_of_a_newer_somactl_are_left_alone(notes: Notes, name: str) -> None:
    await notes.write_notes({name: b'{"format": 2}'})
    with pytest.raises(SchemaMismatch, match="newer somactl"):
        await remembered(notes, anew=True)


@pytest.mark.parametrize("fields", [{"tolerances": {"psd": 1.0}}, {"method": "eigenvalues"}])
async def test_notes_about_something_else_than_their_name_says_are_damage(fields: Any) -> None:
    notes = Dictionary()
    about = {"incarnation": "i1", "tolerances": TOLERANCES, "method": "certify", **fields}
    await notes.write_notes({NAMES[0]: msgspec.json.encode(Ledger(**about))})
    with pytest.raises(CorruptValue, match="other tolerances"):
        await remembered(notes)


async def test_a_key_named_twice_is_damage() -> None:
    notes = Dictionary()
    about = {"incarnation": "i1", "tolerances": TOLERANCES, "method": "certify"}
    await notes.write_notes(
        {NAMES[1]: msgspec.json.encode({**about, "known": [bad("a", 1.0), bad("a", 2.0)]})}
    )
    with pytest.raises(CorruptValue, match="twice"):
        await remembered(notes)


def test_the_later_read_of_a_key_decides() -> None:
    known = {"a": bad("a", 5.0)}
    assert updated(known, [], {"a": 6.0}) == {}
    assert updated(known, [], {"a": 5.0}) == updated(known, [], {"a": 4.0}) == known
    assert updated({}, [bad("a", 5.0)], {"a": 6.0}) == {}
    assert updated({}, [bad("a", 5.0)], {"a": 5.0}) == known
    later = bad("a", 7.0, outcome="corrupt")
    (both,) = updated(known, [later], {}).values()
    assert both == updated({"a": later}, [bad("a", 5.0)], {})["a"]
    assert (both.first_seen, both.last_seen, both.outcome) == (5.0, 7.0, "corrupt")
    for other in (bad("a", 7.0, content=None), bad("a", 7.0, version=9)):
        assert updated(known, [other], {}) == {"a": other}  # known to be bad since it was written


def test_a_long_error_is_cut() -> None:
    (known,) = updated({}, [bad("a", 1.0, error="x" * 10_000)], {}).values()
    assert known.error == "x" * MAX_ERROR_CHARACTERS


async def test_of_more_bad_keys_than_are_kept_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN_BAD", 3)
    notes = Dictionary()
    memory, stale = await remembered(notes), await remembered(notes)
    ledger = await memory.save(
        read(memory.ledger, None, None, at=1.0), found=[*(bad(key, 2.0) for key in "edcb"), bad("f", 1.25)]
    )
    assert list(memory.known_bad) == ["b", "c", "d"]
    assert claims(ledger) == [("d", 5, 1.0), (None, None, None)]
    merged = await stale.save(read(stale.ledger, None, None, at=1.5))
    assert claims(merged) == [("d", 5, 1.0), (None, None, None)]
    merged = await stale.save(read(stale.ledger, "d", None, at=300.0), cleared={"e": 300.0, "f": 300.0})
    assert claims(merged) == [("d", 5, 1.0), (None, 5, 300.0)]


class Taken(msgspec.Struct):
    done: int
    format: int = 1


async def test_a_checkpoint_can_be_kept_there_too(notes: Notes) -> None:
    def taken() -> LockHeld:
        return LockHeld("another run goes on with it")

    first = await Checkpoint.open(notes, "audit/run", Taken, taken)
    second = await Checkpoint.open(notes, "audit/run", Taken, taken)
    await first.save(Taken(1))
    with pytest.raises(LockHeld):
        await second.save(Taken(1))
    assert (await Checkpoint.open(notes, "audit/run", Taken, taken)).state == Taken(1)


class World:
    """A namespace, audits of it that know nothing of each other, and what was really read and saved."""

    KEYS = "abcdef"

    def __init__(self) -> None:
        self.notes = Dictionary()
        self.now = 1000.0
        self.version = 0
        self.live: dict[str, int] = {}
        self.rotten: set[str] = set()
        self.good: set[tuple[str, int]] = set()
        self.judged: dict[str, tuple[float, bool, int]] = {}
        self.audits: list[dict[str, Any]] = [{}, {}]

    async def put(self, key: str) -> None:
        self.version += 1
        self.live[key] = self.version
        self.rotten.discard(key)

    async def delete(self, key: str) -> None:
        self.version += 1
        self.live.pop(key, None)

    async def rot(self, key: str) -> None:
        self.rotten ^= {key}  # or is mended behind our back

    async def open(self, number: int) -> None:
        memory = await remembered(self.notes)
        self.audits[number] = {"memory": memory, "ledger": memory.ledger, "reads": []}

    def look(self, audit: dict[str, Any], keys: Sequence[str]) -> None:
        for key in keys:
            self.now += 1.0
            good = key not in self.live or key not in self.rotten
            audit["reads"].append((key, self.now, good, self.live.get(key, 0)))

    def _keys(self, after: str | None, upto: str | None) -> list[str]:
        return [key for key in self.KEYS if (after is None or key > after) and (upto is None or key <= upto)]

    async def audit(self, number: int, after: str | None, upto: str | None) -> None:
        audit = self.audits[number]
        if audit:
            read_at, keys = self.now + 0.5, self._keys(after, upto)
            self.look(audit, keys)
            audit["ledger"] = audit["ledger"].record(
                after, upto, version=self.version, read_at=read_at, keys=len(keys), bytes=1
            )

    async def catch_up(self, number: int, after: str | None, upto: str | None) -> None:
        audit = self.audits[number]
        if audit:
            cursor, known = audit["ledger"].cursor(), audit["memory"].known_bad
            keys = self._keys(after, upto)
            self.look(
                audit, [k for k in keys if self.live.get(k, 0) > (cursor.at(k).version or 0) or k in known]
            )
            audit["ledger"] = audit["ledger"].caught_up(after, upto, self.version)

    async def save(self, number: int) -> None:
        audit = self.audits[number]
        if not audit:
            return
        reads, audit["reads"] = audit["reads"], []
        found = [bad(key, at, version=version) for key, at, good, version in reads if not good]
        cleared = {key: at for key, at, good, _ in reads if good}
        audit["ledger"] = await audit["memory"].save(audit["ledger"], found=found, cleared=cleared)
        for key, at, good, version in reads:
            self.judged[key] = max((at, good, version), self.judged.get(key, (0.0, True, 0)))
            if good:
                self.good.add((key, version))

    async def check(self) -> None:
        there = await remembered(self.notes)
        cursor = there.ledger.cursor()
        for key in self.KEYS:
            claim, version = cursor.at(key).version, self.live.get(key)
            if version is None or claim is None or claim < version or key in there.known_bad:
                continue
            assert (key, version) in self.good, f"{key} was never proven"
            _, good, judged = self.judged[key]
            assert good or judged != version, f"{key} was found bad, and is claimed"


places = st.sampled_from([None, *World.KEYS])
intervals = st.tuples(places, places).filter(lambda ends: None in ends or ends[0] < ends[1])
numbers = st.integers(0, 1)
steps = st.one_of(
    st.tuples(
        st.sampled_from(["put", "rot", "rot", "delete"]), st.sampled_from(World.KEYS).map(lambda key: (key,))
    ),
    st.tuples(st.sampled_from(["open", "save", "save"]), numbers.map(lambda number: (number,))),
    st.tuples(
        st.sampled_from(["audit", "catch_up"]),
        st.tuples(numbers, intervals).map(lambda drawn: (drawn[0], *drawn[1])),
    ),
)


@settings(max_examples=EXAMPLES)
@given(st.sampled_from([1, 2, 100]), st.lists(steps, min_size=20, max_size=50))
def test_no_history_of_audits_makes_them_claim_a_key_that_was_found_bad(
    most: int, history: list[tuple[str, tuple[Any, ...]]]
) -> None:
    async def play() -> None:
        world = World()
        for step in [("put", ("a",)), ("put", ("d",)), ("open", (0,)), ("open", (1,))]:
            await getattr(world, step[0])(*step[1])
        for name, arguments in history:
            await getattr(world, name)(*arguments)
            await world.check()
        for number in (0, 1):
            await world.save(number)
            await world.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_KNOWN_BAD", most)
        patch.setattr(module, "FIRST_PAUSE", 0.0)
        asyncio.run(play())
