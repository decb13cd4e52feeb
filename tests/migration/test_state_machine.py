"""Whatever is done in whatever order, no matrix is lost and nothing that others wrote is touched.

One client writes the sources, another the store, and three migrations to the same keys are copied,
stopped, finalized, reverted and forgotten between them. What must hold is little, and holds after every step.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from migration.forms import density, text
from migration.places import shown
from migration.running import DISCOVER, Migration, same_bits
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.errors import KeyNotFound, NamespaceNotFound, NotFound, UsageError
from somactl.legacy import batches
from somactl.legacy.journal import Journal
from somactl.legacy.request import MigrationRequest, Selection
from somactl.legacy.source.contract import Source
from somactl.operations.commit import commit_matrix_update
from somactl.report import MigrateReport
from source.backends import FilesBackend

KEYS = ("a", "b")
MATRICES = [density(2, seed=i) for i in range(3)]
TARGETS = [key + pointer for key in KEYS for pointer in ("", "#/x", "#/y")]

PLACES = ("values", "others")
MIGRATIONS = [
    (0, DISCOVER),
    (0, MigrationRequest(selection=Selection(pointers=("", "/x", "/y")))),
    (1, DISCOVER),
]
"""Two of one source with other wishes, and one of another source whose keys are the same."""
Spot: TypeAlias = tuple[int, str]

spots = st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from(KEYS))
migrations = st.sampled_from(range(len(MIGRATIONS)))
matrices = st.sampled_from(range(3))
turns = st.sampled_from([99, 99, 1])
"""How many batches a run may begin: some are stopped on the way."""


class Written:
    """A value that was written: its text, and the matrices in it by their pointers."""

    def __init__(self, data: bytes | None, held: dict[str, int]) -> None:
        self.data = data
        self.held = held


def whole(number: int) -> Written:
    return Written(text(MATRICES[number].tolist()), {"": number})


def embedded(first: int, second: int) -> Written:
    x, y = (text(MATRICES[number].tolist()) for number in (first, second))
    return Written(b'{"x": %s, "n": 1.50, "y": %s}' % (x, y), {"/x": first, "/y": second})


def target_of(spot: Spot, pointer: str) -> str:
    return f"{spot[1]}#{pointer}" if pointer else spot[1]


def opened(backend: FilesBackend, *, read_only: bool) -> Source:
    return backend.open(read_only=False)


values = st.one_of(
    matrices.map(whole),
    st.builds(embedded, matrices, matrices),
    st.just(Written(b'{"n": 1}', {})),
    st.just(Written(None, {})),
)


class Journeys(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        settings = Settings(store=f"sqlite:///{self.folder / 'target.db'}")
        self.backends = []
        for name in PLACES:
            (self.folder / name).mkdir()
            self.backends.append(FilesBackend(self.folder / name))
        self.migrations = [
            Migration(partial(opened, self.backends[place]), settings, wishes) for place, wishes in MIGRATIONS
        ]
        self.source = {(place, key): Written(None, {}) for place in range(len(PLACES)) for key in KEYS}
        self.theirs: dict[str, int | None] = {}  # target -> what another writer of the store put there last
        self.forgotten: set[Spot] = set()  # whose originals are no more
        self.referred: dict[Spot, set[str]] = {}  # targets to which a value refers that a client wrote
        for backend in self.backends:
            asyncio.run(backend.put(dict.fromkeys(KEYS)))
        self.write((0, "a"), whole(0))
        self.write((0, "b"), embedded(1, 2))
        self._batch_values = batches.BATCH_VALUES
        batches.BATCH_VALUES = 1

    def teardown(self) -> None:
        batches.BATCH_VALUES = self._batch_values
        shutil.rmtree(self.folder)

    def write(self, spot: Spot, value: Written) -> None:
        if value.data is None and self.found(spot) is None:
            return  # deleting what is gone does nothing
        self.source[spot] = value
        self.forgotten.discard(spot)
        self.referred.pop(spot, None)
        asyncio.run(self.backends[spot[0]].put({spot[1]: value.data}))

    def found(self, spot: Spot) -> bytes | None:
        place, key = spot
        return asyncio.run(self.backends[place].read(key))

    @initialize(which=migrations, finalized=st.booleans(), same=st.booleans())
    def begin_somewhere(self, which: int, finalized: bool, same: bool) -> None:
        """Half of the journeys begin where most of them would never come to."""
        if same:
            self.write((1, "a"), whole(0))
            self.write((1, "b"), embedded(1, 2))
        if finalized:
            for each in range(len(MIGRATIONS)):
                self.copy(each, 99)
            self.finalize(which, 99)

    @rule(spot=spots, value=values)
    def somebody_writes_the_source(self, spot: Spot, value: Written) -> None:
        self.write(spot, value)

    @rule(at=st.sampled_from(TARGETS), number=st.none() | matrices)
    def somebody_writes_the_store(self, at: str, number: int | None) -> None:
        async def commit() -> None:
            async with self.migrations[0].store() as store:
                array = None if number is None else MATRICES[number]
                await commit_matrix_update(store, {at: array})

        asyncio.run(commit())
        self.theirs[at] = number

    @rule(which=migrations, count=turns)
    def copy(self, which: int, count: int) -> None:
        resume = self.phase(which) == "copying"
        self.attempt(lambda: self.migrations[which].copy(resume=resume, pace=after_batches(count)))

    @rule(spot=spots, number=matrices)
    def somebody_edits_what_stands_beside_a_reference(self, spot: Spot, number: int) -> None:
        found = self.found(spot)
        if found is not None and b"__somactl__" in found:
            held = self.source[spot].held
            self.write(spot, Written(found.replace(b'"n": 1.50', b'"n": %d' % number), {}))
            left = shown(self.source[spot].data)
            assert isinstance(left, dict)
            self.referred[spot] = {f"{spot[1]}#{p}" for p in held if left[p[1:]] == f"{spot[1]}#{p}"}

    @rule(which=migrations, count=turns)
    def finalize(self, which: int, count: int) -> None:
        """What it takes is in the store at that moment, whatever was written there."""
        before = {spot: self.found(spot) for spot in self.source}
        self.attempt(lambda: self.migrations[which].finalize(pace=after_batches(count)))
        stored = asyncio.run(self.stored())
        for spot, value in self.source.items():
            found = self.found(spot)
            for pointer in self.taken(spot, value, found) if found != before[spot] else []:
                target = target_of(spot, pointer)
                assert same_bits(stored[target], MATRICES[value.held[pointer]]), target

    @rule(which=migrations, count=turns)
    def revert(self, which: int, count: int) -> None:
        before = self.phase(which)
        report = self.attempt(lambda: self.migrations[which].revert(pace=after_batches(count)))
        if report is None:
            assert before in (None, "reverted", "forgetting")
            return
        if report.phase == "reverted" and not report.left_alone:
            others = asyncio.run(self.taken_out_by_others(which))
            for spot, value in self.source.items():
                if spot not in self.forgotten and spot not in others:
                    assert self.found(spot) == value.data, spot

    @rule(which=migrations, other=migrations)
    def one_is_reverted_after_another_took_out_the_same(self, which: int, other: int) -> None:
        for each in (which, other):
            self.copy(each, 99)
        self.finalize(other, 99)
        self.no_matrix_is_lost()
        self.revert(which, 99)

    @rule(which=migrations, at=st.sampled_from(TARGETS), number=matrices, spot=spots)
    def finalize_and_think_better_of_it(self, which: int, at: str, number: int, spot: Spot) -> None:
        self.finalize(which, 99)
        self.somebody_edits_what_stands_beside_a_reference(spot, number)
        self.somebody_writes_the_store(at, number)
        self.revert(which, 99)

    @rule(which=migrations, certainty=st.integers(0, 4))
    def forget(self, which: int, certainty: int) -> None:
        if certainty < 4 or self.phase(which) not in ("copied", "finalized", "reverted"):
            return  # it ends a journey, and most would end too soon
        self.attempt(self.migrations[which].forget)
        self.forgotten.update(spot for spot in self.source if spot[0] == MIGRATIONS[which][0])

    def attempt(self, step: Callable[[], Awaitable[MigrateReport]]) -> MigrateReport | None:
        """Carry it out, unless it is not its turn."""

        async def run() -> MigrateReport | None:
            try:
                return await step()
            except (UsageError, NotFound):
                return None

        return asyncio.run(run())

    async def journals(self) -> list[Journal]:
        journals = []
        for migration in self.migrations:
            async with migration.source() as source, migration.store() as store:
                journals.append(await Journal.open(store, migration.id_of(source, store)))
        return journals

    def phase(self, which: int) -> str | None:
        journal = asyncio.run(self.journals())[which]
        return journal.state.phase if journal.exists else None

    async def taken_out_by_others(self, which: int) -> set[Spot]:
        """What other migrations could put back."""
        taken: set[Spot] = set()
        for number, migration in enumerate(self.migrations):
            if number == which:
                continue
            async with migration.source() as source, migration.store() as store:
                journal = await Journal.open(store, migration.id_of(source, store))
                keys = [bytes.fromhex(each.key).decode() async for each in journal.originals()]
            taken |= {(MIGRATIONS[number][0], key) for key in keys}
        return taken

    @invariant()
    def no_matrix_is_lost(self) -> None:
        """What stands in the source was written there last, or has given its matrices to the store."""
        stored = asyncio.run(self.stored())
        for spot, value in self.source.items():
            found = self.found(spot)
            if found == value.data:
                continue
            assert value.held, f"{spot}: a value without a matrix was touched"
            taken = self.taken(spot, value, found)
            assert taken, f"{spot}: neither what was written nor what finalizing leaves"
            for pointer in taken:
                target = target_of(spot, pointer)
                if target in self.theirs:
                    continue  # what another writer of the store does with it is theirs to answer for
                assert target in stored, f"{target} is nowhere"
                assert same_bits(stored[target], MATRICES[value.held[pointer]]), target

    def taken(self, spot: Spot, value: Written, found: bytes | None) -> list[str]:
        """The pointers of the matrices that are gone from the value; [] where it is something else."""
        if found is None:
            return [""] if "" in value.held else []
        if "" in value.held:
            return []
        key = spot[1]
        node, wanted = shown(found), shown(value.data)
        assert isinstance(node, dict)
        assert isinstance(wanted, dict)
        taken = [pointer for pointer in value.held if node.get(pointer[1:]) == f"{key}#{pointer}"]
        for pointer in taken:
            wanted[pointer[1:]] = f"{key}#{pointer}"
        return taken if node == wanted and b"1.50" in found else []

    @invariant()
    def what_others_wrote_to_the_store_stands(self) -> None:
        stored = asyncio.run(self.stored())
        for target, number in self.theirs.items():
            if number is not None:
                assert target in stored, f"{target} was deleted"
                assert same_bits(stored[target], MATRICES[number]), f"{target} was overwritten"

    @invariant()
    def nobody_refers_to_nothing(self) -> None:
        stored = asyncio.run(self.stored()) if self.referred else {}
        referred = {target for targets in self.referred.values() for target in targets}
        assert {target for target in referred - self.theirs.keys() if target not in stored} == set()

    async def stored(self) -> dict[str, np.ndarray]:
        try:
            contents = await self.migrations[0].contents()
        except (NamespaceNotFound, KeyNotFound):
            return {}
        return {key: await self.migrations[0].matrix(key) for key in contents}


class TestJourneys(Journeys.TestCase):
    settings = settings(max_examples=6, stateful_step_count=15, deadline=None)


class TestLongJourneys(Journeys.TestCase):
    settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
