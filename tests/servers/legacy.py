"""The dumps of the old service (`tests/data/legacy`), in real servers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from servers.external import ExternalPostgres
from servers.postgres import PostgresServer, binary
from servers.process import ServerFailed
from servers.redis import RedisServer

_FOLDER = Path(__file__).parents[1] / "data" / "legacy"
_POSTGRES = _FOLDER / "kv_store.sql"
_REDIS = _FOLDER / "redis.rdb"


def load_postgres(server: PostgresServer | ExternalPostgres) -> str:
    """The URL of a new database that holds `kv_store`."""
    url = server.create_database()
    done = subprocess.run(
        [binary("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={_POSTGRES}", url],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"psql failed:\n{done.stderr}")
    return url


def copy_postgres(server: PostgresServer | ExternalPostgres, url: str) -> str:
    """The URL of a new database with what that of `url` holds, to which no client may be connected."""
    copy = server.create_database()
    names = [urlsplit(each).path.removeprefix("/") for each in (copy, url)]
    server.run(f"DROP DATABASE {names[0]}")
    server.run(f"CREATE DATABASE {names[0]} TEMPLATE {names[1]}")
    return copy


def legacy_redis_server(folder: Path) -> RedisServer:
    """A server, not yet started, that will load the dump."""
    data = folder / "data"
    data.mkdir(parents=True)
    shutil.copy(_REDIS, data / _REDIS.name)
    return RedisServer(folder, config={"dbfilename": _REDIS.name})
