"""The PostgreSQL store held to the contract: directly, through a pooler, and as it handles large values."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from servers.pgbouncer import PgBouncer
from servers.postgres import Databases
from somactl.store.postgres import reading, writing
from somactl.testing import ReadContract, StoreContract
from somactl.testing.commits import CommitChapter
from somactl.testing.concurrency import ConcurrencyChapter
from somactl.testing.grace import GraceChapter
from somactl.testing.identity import IdentityChapter
from somactl.testing.notes import NoteChapter
from store.postgres_backend import PostgresBackend


class TestPostgres(StoreContract):
    state_machine_examples = 12

    @pytest.fixture
    def make_backend(self, postgres_server: Databases) -> Callable[[], PostgresBackend]:
        return lambda: PostgresBackend(postgres_server)


class TestPostgresBehindPgBouncer(StoreContract):
    state_machine_examples = 3

    @pytest.fixture
    def make_backend(self, postgres_server: Databases, pgbouncer: PgBouncer) -> Callable[[], PostgresBackend]:
        return lambda: PostgresBackend(postgres_server, pgbouncer)


class TestLargeCommitsBehindPgBouncer(
    CommitChapter, IdentityChapter, GraceChapter, NoteChapter, ConcurrencyChapter, ReadContract
):
    """Every commit goes in a transaction of several statements, every value comes in a portion of its own."""

    @pytest.fixture
    def make_backend(
        self, postgres_server: Databases, pgbouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], PostgresBackend]:
        monkeypatch.setattr(writing, "_DIRECT_BYTES", -1)
        monkeypatch.setattr(writing, "_BATCH_BYTES", 1000)
        monkeypatch.setattr(reading, "AT_ONCE_BYTES", 0)
        return lambda: PostgresBackend(postgres_server, pgbouncer)
