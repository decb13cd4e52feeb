"""The Redis store: one server or cluster as the authority. `docs/STORE_REDIS.md` says what it promises."""

from somactl.store.redis.store import RedisStore

__all__ = ["RedisStore"]
