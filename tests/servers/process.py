"""A server as a child process: started on a free port, awaited, stopped, killed or paused."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from servers import watchdog

START_SECONDS = 60.0
STOP_SECONDS = 30.0
ATTEMPTS = 10

# Below the ports that the kernel gives to clients: one of those could, while a server is down, take its
# port, and a client that dials a dead server there can even reach itself.
PORTS = range(20_000, 32_000)

_alive: weakref.WeakSet[Server] = weakref.WeakSet()


class ServerMissing(Exception):
    """A server that the tests need is not installed."""


class ServerFailed(Exception):
    """A server did not start or stop as it should; the message ends with its log."""


def find(program: str, *folders: Path | str) -> Path:
    """The program, on PATH or in one of `folders`; raises ServerMissing."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", *map(str, folders)])
    found = shutil.which(program, path=path)
    if found is None:
        raise ServerMissing(f"{program} is not installed: run `make servers`")
    return Path(found)


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed(f"none of 100 ports between {PORTS.start} and {PORTS.stop} is free")


def unprivileged_user() -> str | None:
    """Whom to run a server as that refuses to run as root; None where the tests are not root themselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def as_user(name: str | None) -> dict[str, Any]:
    """The arguments of `subprocess` that make a child this user's."""
    if name is None:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


@functools.cache
def _watchdog() -> int:
    """The descriptor to write to; it closes with this process, and never crosses an exec."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the tests; the servers end with them
    )
    stdin = process.stdin
    assert stdin is not None

    def end() -> None:
        stdin.close()
        process.wait()
        for server in _alive:
            if server.process is not None:
                server.process.wait()

    atexit.register(end)
    return stdin.fileno()


def _tell_watchdog(*words: object) -> None:
    os.write(_watchdog(), " ".join(map(str, words)).encode() + b"\n")


def private_folder(user: str | None = None) -> Path:
    """A new folder with a short path, for sockets, that `user` owns and can reach; gone with the tests.

    pytest's own are long, and closed to all other users.
    """
    folder = Path(tempfile.mkdtemp(prefix="somactl-"))
    _tell_watchdog("folder", folder)
    if user is not None:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
    return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _tell_watchdog("removed", folder)


class Server:
    """One server. It keeps its port and its data from start to start; `close` removes its data."""

    program: ClassVar[str]
    ready: ClassVar[str]
    """What its log says once it answers."""

    clash: ClassVar[str] = "Address already in use"
    """What its log says where another process has its port."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    run_as: str | None = None
    """The user of the system, where the tests' own will not do."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{self.program}.log"
        self.log.touch()
        self.port = 0
        self.runtime = private_folder(self.run_as)
        self.process: subprocess.Popen[bytes] | None = None
        self._guarded: int | None = None

    def choose_ports(self) -> None:
        self.port = free_port()

    def prepare(self) -> None:
        """Write what the server reads at its start."""

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.program} was not started"
        return self.process.pid

    def start(self) -> Self:
        """Return when it answers; raises ServerFailed with its log if it does not."""
        assert not self.running, f"{self.program} runs already"
        chosen = self.port
        for attempt in range(ATTEMPTS):
            if not chosen:
                self.choose_ports()
            self.prepare()
            begin = self.log.stat().st_size
            self._spawn()
            if self._answers(begin):
                _alive.add(self)
                return self
            if self.clash not in self.log_since(begin):
                break
            time.sleep(0.05 * attempt)
        raise self._failure("did not start")

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.runtime,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.run_as),
            )
        self._guarded = self.process.pid
        _tell_watchdog("server", self._guarded, int(self.stop_signal))

    def _answers(self, begin: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = not self.running
            if self.ready in self.log_since(begin) and not ended:
                return True
            if ended:
                break
            time.sleep(0.005)
        self.kill()
        return False

    def stop(self) -> None:
        """Ask it to end, as an operator would, and wait; it can be started again."""
        if self.process is None or not self.running:
            self._ended()
            return
        self.resume()
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure(f"did not stop in {STOP_SECONDS} s") from None
        self._ended()

    def kill(self) -> None:
        """SIGKILL to it and to all that it started; return when none of them runs."""
        if self.process is not None and self.running:
            watchdog.wait_until_gone(watchdog.kill_tree(self.process.pid))
            self.process.wait()
        self._ended()

    def _ended(self) -> None:
        if self._guarded is not None:
            _tell_watchdog("ended", self._guarded)
            self._guarded = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        assert self.running, f"{self.program} does not run"
        watchdog.stop_tree(self.pid)

    def resume(self) -> None:
        """SIGCONT; harmless where nothing is paused."""
        if self.running:
            for process in reversed(watchdog.tree(self.pid)):
                watchdog.send(process, signal.SIGCONT)

    def restart(self) -> Self:
        """Stop it, if it runs, and start it on the same port and data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop it for good, and remove its data."""
        try:
            self.stop()
        finally:
            remove_folder(self.runtime)
            _alive.discard(self)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _failure(self, defect: str) -> ServerFailed:
        return ServerFailed(f"{self.program} {defect}; its log {self.log} ends:\n{self.log_tail()}")

    def log_since(self, begin: int) -> str:
        with self.log.open("rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_since(0).splitlines()[-lines:])


def log_sizes() -> dict[Server, int]:
    """How long the log of each server is that was started."""
    return {server: server.log.stat().st_size for server in _alive}


def logs_since(sizes: dict[Server, int]) -> Iterator[tuple[str, str]]:
    """The name of each server and what its log says since `sizes` were taken."""
    for server in log_sizes():
        if said := server.log_since(sizes.get(server, 0)):
            yield f"{server.program} on port {server.port}", said[-4000:]
