"""`somactl` for tests that run it by the hundred: one process has imported it, and forks a child a run.

A child has the caller's standard streams, folder, environment, umask and limit of a file's size, and does
what the executable does; what it saves is the start of an interpreter and the imports. Tests of start-up and
imports use the real executable.

As a program, `python -m support.forkserver SOCKET` serves until its standard input ends.
"""

from __future__ import annotations

import atexit
import functools
import gc
import io
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from support import forkclient

BEFORE = "SOMACTL_TEST_BEFORE"
"""The variable with Python code for a child to run first."""
TESTS = Path(__file__).parents[1]
PROGRAM = """#!{python} -IS
import sys
sys.path.append({tests!r})
from support.forkclient import main
main({address!r})
"""


# The caller's side


class ForkServer:
    """A server of its own, started by the first run in the environment `env`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    @functools.cached_property
    def folder(self) -> Path:
        """What to put on PATH: it has a program `somactl` that this server runs."""
        folder = Path(tempfile.mkdtemp(prefix="somactl-fork-"))
        process = subprocess.Popen(
            [sys.executable, "-m", "support.forkserver", folder / "socket"],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._env,
        )
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        atexit.register(_stop, process, folder)
        program = folder / "somactl"
        address = str(folder / "socket")
        program.write_text(PROGRAM.format(python=sys.executable, tests=str(TESTS), address=address))
        program.chmod(0o700)
        return folder

    @property
    def program(self) -> str:
        return str(self.folder / "somactl")

    def call(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        streams: Sequence[int | None],
        timeout: float = 120,
    ) -> int:
        """Exit code of one run, whose standard streams are those descriptors; None is a closed one."""
        peer = forkclient.connect(str(self.folder / "socket"), words, str(cwd), env, streams)
        peer.settimeout(timeout)
        try:
            forkclient.receive(peer)
            return forkclient.receive(peer)
        finally:
            peer.close()  # which ends a run that goes on

    def run(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Exit code, standard output and standard error of one run."""
        (give, put), (out, to_out), (err, to_err) = os.pipe(), os.pipe(), os.pipe()
        caught: dict[int, bytes] = {}
        threads = [
            threading.Thread(target=_write, args=(put, stdin)),
            *(threading.Thread(target=_read, args=(fd, caught)) for fd in (out, err)),
        ]
        for thread in threads:
            thread.start()
        try:
            code = self.call(words, cwd=cwd, env=env, streams=(give, to_out, to_err))
        finally:
            for fd in (give, to_out, to_err):
                os.close(fd)
            for thread in threads:
                thread.join()
        return code, caught[out], caught[err]


def _write(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb", buffering=0) as file:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) or 0 :]
        except BrokenPipeError:
            pass


def _read(fd: int, caught: dict[int, bytes]) -> None:
    with os.fdopen(fd, "rb") as file:
        caught[fd] = file.read()


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(10)
    shutil.rmtree(folder)


# The server's side


def import_all() -> None:
    """What the children would import and look up, each of them anew."""
    import importlib
    import pkgutil

    import numpy as np

    import somactl
    from somactl.core import invariants

    for module in pkgutil.walk_packages(somactl.__path__, "somactl."):
        if not module.name.startswith(("somactl.testing", "somactl.__main__")):
            importlib.import_module(module.name)
    invariants.check(np.eye(1))  # finds LAPACK and tries its rounding


def become_somactl(words: Sequence[str]) -> NoReturn:
    """Do what the executable does, and end this process as the interpreter ends one."""
    from somactl.cli import main

    sys.argv = ["somactl", *words]
    streams = [sys.stdout, sys.stderr]
    try:
        main()
    except SystemExit as exc:
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter waits for threads
        atexit._run_exitfuncs()
        try:
            for stream in filter(None, [*streams, sys.stdout, sys.stderr]):
                stream.flush()
        except OSError:
            os._exit(120)  # as the interpreter does
        os._exit(int(str(exc.code or 0)))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def _serve(path: str) -> None:
    import_all()
    atexit._clear()
    gc.freeze()  # a child that marks garbage would copy every page
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b".")
    while 0 not in select.select([server, 0], [], [])[0]:  # it ends with its caller
        peer, _ = server.accept()
        if os.fork() == 0:
            server.close()
            _answer(peer)
        peer.close()


def _answer(peer: socket.socket) -> NoReturn:
    """One run: this process waits for the child that makes it, and kills it when the caller is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        head, descriptors, _, _ = socket.recv_fds(peer, 4, 3)
        length, order = int.from_bytes(head, "big"), b""
        while len(order) < length:
            order += peer.recv(length - len(order))
        fields = list(map(os.fsdecode, order.split(b"\0")))
        child = os.fork()
        if child == 0:
            peer.close()
            try:
                _become(descriptors, *fields)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(99)
        for descriptor in descriptors:
            os.close(descriptor)
        peer.sendall(child.to_bytes(4, "big"))
        watched = os.pidfd_open(child)
        if watched not in select.select([peer, watched], [], [])[0]:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        peer.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    finally:
        os._exit(0)


def _become(
    descriptors: list[int], opened: str, umask: str, limit: str, folder: str, words: str, *rest: str
) -> NoReturn:
    os.umask(int(umask, 8))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(setting.split("=", 1) for setting in rest[int(words) :])
    time.tzset()
    exec(os.environ.pop(BEFORE, ""))
    _take_streams(dict(zip(map(int, opened), descriptors, strict=True)))
    become_somactl(rest[: int(words)])


def _take_streams(given: Mapping[int, int]) -> None:
    """Make them 0, 1 and 2; a missing one is no descriptor and no object, as an interpreter has it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = None
        if number in given:
            os.dup2(given[number], number)
            os.close(given[number])
            raw = io.FileIO(number, "w" if number else "r", closefd=False)
            buffer = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
            before = getattr(sys, name)
            stream = io.TextIOWrapper(buffer, before.encoding, before.errors)
        else:
            os.close(number)
        setattr(sys, name, stream)


if __name__ == "__main__":
    sys.path.remove(str(TESTS))
    _serve(sys.argv[1])
