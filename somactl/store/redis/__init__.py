"""The Redis store: one server or cluster as the authority. `docs/STORE_REDIS.md` says what it promises."""

from somactl.store.redis.store import RedisServer, RedisStore

__all__ = ["RedisServer", "RedisStore"]
