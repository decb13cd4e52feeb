"""`somactl serve` as a process on free ports; what it logs can be awaited."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.cli.conftest import SOMACTL, environment

WAIT_SECONDS = 60.0


class ServeProcess:
    """One that serves the database of `folder`; `options` are those of the command line besides."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        """through: the words that stand before its own."""
        addresses = [] if "--http" in options else ["--http", "127.0.0.1:0"]
        addresses += [] if "--grpc" in options else ["--grpc", "off"]
        self.process = subprocess.Popen(
            [*through, SOMACTL, "serve", *addresses, *options, "-o", "json"],
            cwd=folder,
            env={**environment(), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )
        self.lines: list[dict[str, Any]] = []
        self.raw = b""
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self.raw += line
                if line.startswith(b"{"):
                    self.lines.append(json.loads(line))
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    def await_line(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line that is wanted."""
        with self._heard:
            found: list[dict[str, Any]] = []

            def there() -> bool:
                found[:] = [line for line in self.lines if wanted(line)]
                return bool(found) or not self._reader.is_alive()

            assert self._heard.wait_for(there, WAIT_SECONDS), self.raw.decode()
            assert found, self.raw.decode()
            return found[0]

    def event(self, name: str, **facts: Any) -> dict[str, Any]:
        """The first event of that name with these facts."""
        return self.await_line(
            lambda line: line.get("event") == name and all(line.get(k) == v for k, v in facts.items())
        )

    @property
    def port(self) -> int:
        return int(self.event("serving")["http"].rpartition(":")[2])

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, Any]:
        """The exit code after that signal, and the report."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, Any]:
        assert self.process.stdout is not None
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        out = self.process.stdout.read()
        return code, json.loads(out) if out else None
