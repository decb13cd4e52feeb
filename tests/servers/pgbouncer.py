"""PgBouncer before a PostgreSQL server, in transaction mode."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from servers.postgres import Databases
from servers.process import Server, find, unprivileged_user


class PgBouncer(Server):
    """It forwards to any database of `postgres`, and asks for the same user and password."""

    program: ClassVar[str] = "pgbouncer"
    ready: ClassVar[str] = "process up:"
    clash: ClassVar[str] = "in use"

    def __init__(self, folder: Path, postgres: Databases) -> None:
        self.executable = find(self.program)
        self.run_as = unprivileged_user()
        super().__init__(folder)
        self.postgres = postgres
        self.settings = {
            "pool_mode": "transaction",
            "max_client_conn": "200",
            "default_pool_size": "10",
            # Each test has its own database, and so a pool of its own: one that rests gives its place up.
            "server_idle_timeout": "5",
        }

    def url(self, database: str = "postgres") -> str:
        before, _, _ = self.postgres.url(database).rpartition("@")
        return f"{before}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        users = self._owned("users.txt", f'"{self.postgres.user}" "{self.postgres.password}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "admin_users": self.postgres.user,
            **self.settings,
        }
        lines = ["[databases]", f"* = host={self.postgres.host} port={self.postgres.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        self._owned("pgbouncer.ini", "\n".join(lines) + "\n")

    def _owned(self, name: str, text: str) -> Path:
        path = self.runtime / name
        path.write_text(text)
        path.chmod(0o600)
        if self.run_as is not None:
            shutil.chown(path, self.run_as)
        return path

    def command(self) -> list[str | Path]:
        return [self.executable, self.runtime / "pgbouncer.ini"]
