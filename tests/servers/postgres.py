"""PostgreSQL, on its own data."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import os
import secrets
import shutil
import signal
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlsplit

import asyncpg

from servers.certificates import make_certificates
from servers.process import Server, ServerFailed, as_user, find, private_folder, unprivileged_user

DEFAULTS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # In the data folder: what a killed server leaves in /dev/shm stays there.
    "dynamic_shared_memory_type": "mmap",
}


def binary(program: str) -> Path:
    """One of PostgreSQL's programs, of the highest version where there are several; raises ServerMissing."""
    folders = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdigit()]
    versions = sorted(folders, key=lambda folder: int(folder.parent.name), reverse=True)
    return find(program, *versions)


def cheap_verifier(password: str) -> str:
    """What a server keeps of a password for SCRAM, of one round instead of 4,096 a connection."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (
        hmac.digest(salted, f"{whose} Key".encode(), "sha256") for whose in ("Client", "Server")
    )
    parts = (b64encode(part).decode() for part in (salt, hashlib.sha256(client).digest(), server))
    return "SCRAM-SHA-256$1:{}${}:{}".format(*parts)


class Databases:
    """What one does with the databases of a server, ours or a developer's."""

    host: str
    port: int
    user: str
    password: str

    def url(self, database: str = "postgres") -> str:
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        return f"postgresql://{user}:{password}@{self.host}:{self.port}/{database}"

    def admin(self) -> Mapping[str, Any]:
        """How asyncpg connects as the superuser."""
        raise NotImplementedError

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"somactl_test_{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop it, whatever is connected."""
        name = urlsplit(url).path.removeprefix("/")
        assert name.startswith("somactl_test_"), f"{name} was not made by create_database"
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of one statement of the superuser's, in a loop of its own: a test's may run already."""

        async def connect_and_run() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(**{**self.admin(), "database": database})
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(connect_and_run())).result()


class PostgresServer(Server, Databases):
    """A PostgreSQL on 127.0.0.1 that asks for a password there, and for none on its socket.

    `settings` are those of postgresql.conf; a change of them counts from the next start. With `tls` it takes
    nothing else over TCP, and `ca_file` is the authority to trust.
    """

    program: ClassVar[str] = "postgres"
    ready: ClassVar[str] = "database system is ready to accept connections"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": does not wait for clients to leave

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None, tls: bool = False) -> None:
        self.executable = binary(self.program)
        self.run_as = unprivileged_user()
        super().__init__(folder)
        self.host = "127.0.0.1"
        self.user = "somactl"
        self.password = f"secret-{secrets.token_hex(8)}"
        self.settings = {**DEFAULTS, **(settings or {})}
        self.data = self.runtime / "data"
        self.tls = make_certificates(self.runtime) if tls else None
        self.ca_file = self.tls.ca if self.tls else None
        if self.tls is not None and self.run_as is not None:
            shutil.chown(self.tls.key, self.run_as)

    def admin(self) -> Mapping[str, Any]:
        return {"host": str(self.runtime), "port": self.port, "user": self.user}

    def prepare(self) -> None:
        if not self.data.exists():
            subprocess.run(["cp", "-a", _empty_cluster(self.user), self.data], check=True)
        access = "hostssl" if self.tls else "host"
        self.data.joinpath("pg_hba.conf").write_text(
            f"local all all trust\n{access} all all 127.0.0.1/32 scram-sha-256\n"
        )

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.runtime),
            **self.settings,
        }
        if self.tls is not None:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self.tls.certificate),
                "ssl_key_file": str(self.tls.key),
            }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.executable, "-D", self.data, *options]

    def start(self) -> Self:
        """Return when it answers; raises ServerFailed with its log if it does not."""
        super().start()
        self.run(f"ALTER ROLE {self.user} PASSWORD '{cheap_verifier(self.password)}'")
        return self


@functools.cache
def _empty_cluster(superuser: str) -> Path:
    """What initdb makes, once for all servers of the run: it takes seconds, a copy does not."""
    system_user = unprivileged_user()
    folder = private_folder(system_user) / "data"
    done = subprocess.run(
        [
            *(binary("initdb"), "--pgdata", folder, "--username", superuser, "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        ],
        cwd=folder.parent,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        capture_output=True,
        text=True,
        **as_user(system_user),
    )
    if done.returncode != 0:
        raise ServerFailed(f"initdb failed:\n{done.stdout}{done.stderr}")
    return folder
