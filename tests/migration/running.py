"""Run a migration in this process, each step with source and store opened anew, as the command does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import asdict

from somactl.config import Settings
from somactl.core.envelope import deserialize_matrix
from somactl.legacy.copying import copy, inspect
from somactl.legacy.finalize import finalize
from somactl.legacy.journal import Journal
from somactl.legacy.plan import Plan, PlanWriter
from somactl.legacy.request import MigrationContext, MigrationProgress, MigrationRequest, Selection
from somactl.legacy.revert import forget, revert
from somactl.legacy.source.contract import Source
from somactl.operations.admission import Policy
from somactl.operations.jobs.pace import Pace
from somactl.report import MigrateReport, MigrationRow
from somactl.runtime import open_store
from somactl.store.contract import Store

WHOLE = MigrationRequest()
DISCOVER = MigrationRequest(selection=Selection(discover=True))


@dataclass
class Migration:
    """`open_source(read_only=...)` and `settings` name where from and where to."""

    open_source: Callable[..., Source]
    settings: Settings
    request: MigrationRequest = WHOLE
    watch: Callable[[MigrationProgress], None] = field(default=lambda progress: None)

    @asynccontextmanager
    async def store(self, *, read_only: bool = False) -> AsyncIterator[Store]:
        async with open_store(self.settings, read_only=read_only) as store:
            yield store

    @asynccontextmanager
    async def source(self, *, read_only: bool = True) -> AsyncIterator[Source]:
        source = self.open_source(read_only=read_only)
        try:
            yield source
        finally:
            await source.close()

    @asynccontextmanager
    async def context(
        self, pace: Pace | None = None, *, read_only: bool = False
    ) -> AsyncIterator[MigrationContext]:
        async with self.source() as source, self.store(read_only=read_only) as store:
            yield MigrationContext(source, store, self.request, pace or Pace(), self.watch)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[tuple[Source, Store, Journal]]:
        async with self.source(read_only=False) as source, self.store() as store:
            yield source, store, await self.journal(source, store)

    async def journal(self, source: Source, store: Store) -> Journal:
        return await Journal.open(store, self.id_of(source, store))

    async def inspect(self) -> tuple[MigrateReport, list[MigrationRow]]:
        """A dry run's report, and every row."""
        rows: list[MigrationRow] = []
        async with self.context(read_only=True) as context:
            report = await inspect(context, rows.extend)
        return report, rows

    async def plan(self, path: Path) -> MigrateReport:
        with path.open("wb") as file:
            async with self.context(read_only=True) as context:
                writer = PlanWriter(file.write, context)
                report = await inspect(context, writer.add)
                writer.seal()
        return report

    async def apply(self, path: Path, *, pace: Pace | None = None) -> MigrateReport:
        with path.open("rb") as file:
            plan = Plan(file, path.name)
            async with self.context(pace) as context:
                return await copy(context, plan=plan)

    async def copy(self, *, resume: bool = False, pace: Pace | None = None) -> MigrateReport:
        async with self.context(pace) as context:
            return await copy(context, resume=resume)

    async def finalize(self, *, pace: Pace | None = None) -> MigrateReport:
        async with self.changing() as (source, store, journal):
            return await finalize(source, store, journal, pace or Pace())

    async def revert(self, *, pace: Pace | None = None) -> MigrateReport:
        async with self.changing() as (source, store, journal):
            return await revert(source, store, journal, pace or Pace())

    async def forget(self) -> MigrateReport:
        async with self.source(read_only=False) as source, self.store() as store:
            return await forget(store, self.id_of(source, store))

    def id_of(self, source: Source, store: Store) -> str:
        return self.request.id_for(source.identity, store.namespace)

    async def contents(self) -> dict[str, str]:
        """Key -> content digest, of all that is in the store."""
        async with self.store(read_only=True) as store:
            return {stat.key: stat.content async for page in store.scan() for stat in page}

    async def matrix(self, key: str) -> np.ndarray:
        async with self.store(read_only=True) as store:
            return deserialize_matrix((await store.read(key)).data).array


def lines(values: Mapping[str, bytes]) -> bytes:
    """The values as lines of JSON for standard input; they need not be JSON themselves."""
    import json

    return b"".join(
        b'{"key": %s, "value": %s}\n' % (json.dumps(key).encode(), value) for key, value in values.items()
    )


def of_lines(values: Mapping[str, bytes], settings: Settings, request: MigrationRequest = WHOLE) -> Migration:
    """A migration of values that come by a pipe, the same ones each time."""
    from somactl.legacy.source.ndjson import NdjsonSource

    text = lines(values)
    return Migration(lambda *, read_only: NdjsonSource(BytesIO(text)), settings, request)


def by_place(rows: Sequence[MigrationRow]) -> dict[tuple[str, str], MigrationRow]:
    """Key and pointer -> row; no place may have two."""
    found = {(row.key, row.pointer): row for row in rows}
    assert len(found) == len(rows)
    return found


def outcomes(report: MigrateReport) -> dict[str, int]:
    return {name: tally.count for name, tally in report.outcomes.items()}


def reasons(report: MigrateReport) -> dict[str, int]:
    return {name: tally.count for name, tally in report.reasons.items()}


def policy(**changes: Any) -> Policy:
    return Policy(**changes)


def without(row: MigrationRow, *names: str) -> dict[str, Any]:
    """The fields of a row but for `names`."""
    return {name: value for name, value in asdict(row).items() if name not in names}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in dtype, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == np.ascontiguousarray(b).tobytes()


async def settled(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something has come about."""
    for _ in range(int(seconds * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about in time")
