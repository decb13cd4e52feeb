"""Whatever is done in whatever order, no matrix is lost and nothing that others wrote is touched.

Somebody writes the source, somebody else the store, and a migration is copied, stopped, finalized, reverted
and forgotten between them. What must hold is little, and holds after every step.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from migration.forms import density, text
from migration.places import shown
from migration.running import DISCOVER, Migration, same_bits
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.errors import KeyNotFound, NamespaceNotFound, NotFound, UsageError
from somactl.operations.commit import commit_matrix_update
from somactl.operations.migration import batches
from somactl.operations.migration.journal import recorded
from somactl.report import MigrateReport
from source.backends import FilesBackend

KEYS = ("a", "b")
MATRICES = [density(2, seed=i) for i in range(3)]
TARGETS = [key + pointer for key in KEYS for pointer in ("", "#/x", "#/y")]

keys = st.sampled_from(KEYS)
matrices = st.sampled_from(range(3))
turns = st.sampled_from([99, 99, 1])
"""How many batches a run may begin: some are stopped on the way."""


class Written:
    """A value that somebody wrote: its text, and the matrices in it by their pointers."""

    def __init__(self, data: bytes | None, held: dict[str, int]) -> None:
        self.data = data
        self.held = held


def whole(number: int) -> Written:
    return Written(text(MATRICES[number].tolist()), {"": number})


def embedded(first: int, second: int) -> Written:
    x, y = (text(MATRICES[number].tolist()) for number in (first, second))
    return Written(b'{"x": %s, "n": 1.50, "y": %s}' % (x, y), {"/x": first, "/y": second})


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
        (self.folder / "values").mkdir()
        self.backend = FilesBackend(self.folder / "values")
        self.migration = Migration(
            lambda *, read_only: self.backend.open(read_only=False),
            Settings(store=f"sqlite:///{self.folder / 'target.db'}"),
            DISCOVER,
        )
        self.source = {key: Written(None, {}) for key in KEYS}
        self.theirs: dict[str, int | None] = {}  # target -> what another writer of the store put there last
        self.forgotten: set[str] = set()  # keys whose originals are no more
        self.referred: set[str] = set()  # targets to which a value refers that somebody wrote himself
        asyncio.run(self.backend.put(dict.fromkeys(KEYS)))
        self.write("a", whole(0))
        self.write("b", embedded(1, 2))
        self._batch_values = batches.BATCH_VALUES
        batches.BATCH_VALUES = 1

    def teardown(self) -> None:
        batches.BATCH_VALUES = self._batch_values
        shutil.rmtree(self.folder)

    def write(self, key: str, value: Written) -> None:
        if value.data is None and asyncio.run(self.backend.read(key)) is None:
            return  # whoever deletes what is gone has done nothing
        self.source[key] = value
        self.forgotten.discard(key)
        self.referred = {target for target in self.referred if not target.startswith(f"{key}#")}
        asyncio.run(self.backend.put({key: value.data}))

    @initialize(finalized=st.booleans())
    def begin_somewhere(self, finalized: bool) -> None:
        """Half of the journeys begin where most of them would never come to."""
        if finalized:
            self.copy(99)
            self.finalize(99)

    @rule(key=keys, value=values)
    def somebody_writes_the_source(self, key: str, value: Written) -> None:
        self.write(key, value)

    @rule(at=st.sampled_from(TARGETS), number=st.none() | matrices)
    def somebody_writes_the_store(self, at: str, number: int | None) -> None:
        async def commit() -> None:
            async with self.migration.store() as store:
                array = None if number is None else MATRICES[number]
                await commit_matrix_update(store, {at: array})

        asyncio.run(commit())
        self.theirs[at] = number

    @rule(count=turns)
    def copy(self, count: int) -> None:
        resume = self.phase() == "copying"
        self.attempt(lambda: self.migration.copy(resume=resume, pace=after_batches(count)))

    @rule(key=keys, number=matrices)
    def somebody_edits_what_stands_beside_a_reference(self, key: str, number: int) -> None:
        found = asyncio.run(self.backend.read(key))
        if found is not None and b"__somactl__" in found:
            held = self.source[key].held
            self.write(key, Written(found.replace(b'"n": 1.50', b'"n": %d' % number), {}))
            left = shown(self.source[key].data)
            assert isinstance(left, dict)
            self.referred |= {f"{key}#{p}" for p in held if left[p[1:]] == f"{key}#{p}"}

    @rule(count=turns)
    def finalize(self, count: int) -> None:
        """What it takes is in the store at that moment, whoever wrote there."""
        before = {key: asyncio.run(self.backend.read(key)) for key in KEYS}
        self.attempt(lambda: self.migration.finalize(pace=after_batches(count)))
        stored = asyncio.run(self.stored())
        for key, value in self.source.items():
            found = asyncio.run(self.backend.read(key))
            for pointer in self.taken(key, value, found) if found != before[key] else []:
                target = f"{key}#{pointer}" if pointer else key
                assert same_bits(stored[target], MATRICES[value.held[pointer]]), target

    @rule(count=turns)
    def revert(self, count: int) -> None:
        before = self.phase()
        report = self.attempt(lambda: self.migration.revert(pace=after_batches(count)))
        if report is None:
            assert before in (None, "reverted", "forgetting")
            return
        if report.phase == "reverted" and not report.left_alone:
            for key, value in self.source.items():
                if key not in self.forgotten:
                    assert asyncio.run(self.backend.read(key)) == value.data, key

    @rule(at=st.sampled_from(TARGETS), number=matrices, key=keys)
    def finalize_and_think_better_of_it(self, at: str, number: int, key: str) -> None:
        self.finalize(99)
        self.somebody_edits_what_stands_beside_a_reference(key, number)
        self.somebody_writes_the_store(at, number)
        self.revert(99)

    @precondition(lambda self: self.phase() in ("copied", "finalized", "reverted"))
    @rule(certainty=st.integers(0, 4))
    def forget(self, certainty: int) -> None:
        if certainty < 4:
            return  # it ends a journey, and most would end too soon
        self.attempt(self.migration.forget)
        self.forgotten.update(KEYS)

    def attempt(self, step: Callable[[], Awaitable[MigrateReport]]) -> MigrateReport | None:
        """Carry it out, unless it is not its turn."""

        async def run() -> MigrateReport | None:
            try:
                return await step()
            except (UsageError, NotFound):
                return None

        return asyncio.run(run())

    def phase(self) -> str | None:
        async def look() -> str | None:
            async with self.migration.store() as store:
                try:
                    phases: list[str] = [state.phase async for _, state in recorded(store)]
                except NamespaceNotFound:
                    return None
            assert len(phases) <= 1
            return phases[0] if phases else None

        return asyncio.run(look())

    @invariant()
    def no_matrix_is_lost(self) -> None:
        """What stands in the source was written there last, or has given its matrices to the store."""
        stored = asyncio.run(self.stored())
        for key, value in self.source.items():
            found = asyncio.run(self.backend.read(key))
            if found == value.data:
                continue
            assert value.held, f"{key}: a value without a matrix was touched"
            taken = self.taken(key, value, found)
            assert taken, f"{key}: neither what was written nor what finalizing leaves"
            for pointer in taken:
                target = f"{key}#{pointer}" if pointer else key
                if target in self.theirs:
                    continue  # what another writer of the store does with it is theirs to answer for
                assert target in stored, f"{target} is nowhere"
                assert same_bits(stored[target], MATRICES[value.held[pointer]]), target

    def taken(self, key: str, value: Written, found: bytes | None) -> list[str]:
        """The pointers of the matrices that are gone from the value; [] where it is something else."""
        if found is None:
            return [""] if "" in value.held else []
        if "" in value.held:
            return []
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
        assert {target for target in self.referred - self.theirs.keys() if target not in stored} == set()

    async def stored(self) -> dict[str, np.ndarray]:
        try:
            contents = await self.migration.contents()
        except (NamespaceNotFound, KeyNotFound):
            return {}
        return {key: await self.migration.matrix(key) for key in contents}


TestJourneys = Journeys.TestCase
TestJourneys.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
