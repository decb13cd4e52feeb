"""The store for many machines: PostgreSQL. `docs/STORE_POSTGRES.md` says what it promises."""

from somactl.store.postgres.store import PostgresServer, PostgresStore

__all__ = ["PostgresServer", "PostgresStore"]
