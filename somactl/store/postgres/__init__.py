"""The store for many machines: PostgreSQL. `docs/STORE_POSTGRES.md` says what it promises."""

from somactl.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
