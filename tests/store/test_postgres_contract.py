"""The PostgreSQL store held to the contract, directly and through a pooler that shares connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from servers.pgbouncer import PgBouncer
from servers.postgres import Databases
from somactl.testing import StoreContract
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
