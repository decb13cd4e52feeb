"""One description of a store that the tests and the processes they kill open alike."""

from __future__ import annotations

import msgspec

from somactl.store.contract import Store


class Spec(msgspec.Struct, frozen=True):
    """Where a namespace is, and how patient its clients are.

    timeout    seconds that a server may take to answer
    cache      a Redis before the store; "" for none
    cache_ttl, cache_timeout   as SFM_RHO_CACHE_TTL and SFM_RHO_READ_TIMEOUT_MS, both in seconds
    """

    url: str
    namespace: str
    timeout: float
    cache: str = ""
    cache_ttl: float = 2.0
    cache_timeout: float = 0.02
    allow_stale: bool = False

    def open(self) -> Store:
        store = self._authority()
        if not self.cache:
            return store
        from somactl.store.hybrid import HybridStore
        from somactl.store.redis.cache import RedisCache

        cache = RedisCache(self.cache, self.namespace, ttl=self.cache_ttl, timeout=self.cache_timeout)
        return HybridStore(store, cache, allow_stale=self.allow_stale)

    def _authority(self) -> Store:
        if self.url.startswith("redis"):
            from somactl.store.redis import RedisStore

            return RedisStore(self.url, self.namespace, timeout=self.timeout, connect_timeout=self.timeout)
        from somactl.store.postgres import PostgresStore

        return PostgresStore(self.url, self.namespace, timeout=self.timeout, connect_timeout=self.timeout)
