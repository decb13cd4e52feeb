"""The embedded store: one SQLite file, no server. `docs/STORES.md` says what it promises."""

from somactl.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
