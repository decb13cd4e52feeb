"""The embedded store: one SQLite file, no server. `docs/STORES.md` says what it promises."""

from somactl.store.sqlite.store import SqliteServer, SqliteStore

__all__ = ["SqliteServer", "SqliteStore"]
