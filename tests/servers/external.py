"""Servers that a developer runs already, named by the environment: docs/TESTING.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import redis

from servers.postgres import Databases
from servers.process import ServerFailed

REDIS = "SOMACTL_TEST_REDIS_URL"
REDIS_CLUSTER = "SOMACTL_TEST_REDIS_CLUSTER_URL"
POSTGRES = "SOMACTL_TEST_POSTGRES_URL"
PGBOUNCER = "SOMACTL_TEST_PGBOUNCER_URL"

urls: dict[str, str] = {}
"""What the environment named, by variable."""


def take(environment: MutableMapping[str, str]) -> None:
    """Move the URLs from the environment to `urls`: no test, nor what it starts, is to see them there."""
    for variable in (REDIS, REDIS_CLUSTER, POSTGRES, PGBOUNCER):
        if url := environment.pop(variable, ""):
            urls[variable] = url


def worker_number() -> int:
    """Which of pytest-xdist's workers this is; 0 without them."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


class ExternalRedis:
    """One numbered database, which must be empty, and is emptied at the end.

    Each worker has its own: the URL's for the first one, the next for the second.
    """

    def __init__(self, url: str, number: int = 0) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        unix = parts.scheme == "unix"
        own = (query.pop("db", ["0"])[0] if unix else parts.path.strip("/")) or "0"
        self.database = int(own) + number
        if unix:
            query["db"] = [str(self.database)]
        else:
            parts = parts._replace(path=f"/{self.database}")
        text = "&".join(f"{name}={value}" for name, values in query.items() for value in values)
        self.url = (
            parts._replace(query=text).geturl().replace("unix:/", "unix:///", 1) if unix else parts.geturl()
        )

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, **options)

    def __enter__(self) -> Self:
        with self.client() as raw:
            require_empty(raw.dbsize(), f"database {self.database}", REDIS)
        return self

    def __exit__(self, *exception: object) -> None:
        with self.client() as raw:
            raw.flushdb()


class ExternalRedisCluster:
    """A cluster, which must be empty, and is emptied at the end."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, **options: Any) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(self.url.replace("redis+cluster:", "redis:", 1), **options)

    def __enter__(self) -> Self:
        with self.client() as raw:
            require_empty(raw.dbsize(target_nodes="primaries"), "the cluster", REDIS_CLUSTER)
        return self

    def __exit__(self, *exception: object) -> None:
        with self.client() as raw:
            raw.flushall(target_nodes="primaries")


def require_empty(keys: object, what: str, variable: str) -> None:
    """Raise ServerFailed unless there are no keys: tests flush what they use."""
    if keys != 0:
        raise ServerFailed(
            f"{what} of {variable} holds {keys} keys: the tests would delete them, name an empty one"
        )


class ExternalPostgres(Databases):
    """A server on which the URL's user may create databases; those made here are dropped at the end."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 5432
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self._created: list[str] = []

    def url(self, database: str = "postgres") -> str:
        return with_database(self._url, database)

    def admin(self) -> Mapping[str, Any]:
        return {"dsn": self._url}

    def create_database(self) -> str:
        self._created.append(super().create_database())
        return self._created[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for url in self._created:
            self.drop_database(url)


class ExternalPgBouncer:
    """One that forwards any database name to the server of SOMACTL_TEST_POSTGRES_URL."""

    def __init__(self, url: str) -> None:
        if POSTGRES not in urls:
            raise ServerFailed(
                f"{PGBOUNCER} is set without {POSTGRES}: tests create databases behind PgBouncer"
            )
        self._url = url

    def url(self, database: str = "postgres") -> str:
        return with_database(self._url, database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def with_database(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
