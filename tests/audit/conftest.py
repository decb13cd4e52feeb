"""What several tests of audits stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from servers.external import ExternalPostgres, ExternalRedis
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.config import Settings


@pytest_asyncio.fixture(params=["sqlite", "redis", "postgres"])
async def settings(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_server: RedisServer | ExternalRedis,
    postgres_server: PostgresServer | ExternalPostgres,
) -> AsyncIterator[Settings]:
    """Those of an empty database of each kind."""
    if request.param == "sqlite":
        yield Settings(store=f"sqlite:///{tmp_path / 'store.db'}")
    elif request.param == "redis":
        with redis_server.client() as raw:
            raw.flushdb()
            yield Settings(store=redis_server.url)
            raw.flushdb()
    else:
        url = postgres_server.create_database()
        yield Settings(store=url)
        postgres_server.drop_database(url)
