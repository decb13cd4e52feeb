"""`somactl` for tests that run it by the hundred: one process has imported it, and forks a child a run.

A child has the caller's standard streams, folder, environment and umask, and does what the executable does;
what it saves is the start of an interpreter and the imports. Tests of start-up, signals and imports use the
real executable.

As a program: `forkserver.py SOCKET` serves until its standard input ends.
"""

from __future__ import annotations

import array
import atexit
import gc
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_LENGTH = struct.Struct("!I")


# The caller's side


class ForkServer:
    """A server of its own, started by the first run in the environment `env`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._socket: str | None = None

    def _place(self) -> str:
        with self._lock:
            if self._socket is None:
                folder = tempfile.mkdtemp(prefix="somactl-fork-")
                path = f"{folder}/socket"
                process = subprocess.Popen(
                    [sys.executable, __file__, path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=self._env,
                )
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stdout.read(1) == b"."
                atexit.register(_stop, process, folder)
                self._socket = path
            return self._socket

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: bytes = b"",
        timeout: float = 120,
    ) -> tuple[int, bytes, bytes]:
        """Exit code, standard output and standard error of one run."""
        (give, put), (out, to_out), (err, to_err) = os.pipe(), os.pipe(), os.pipe()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(timeout)
            peer.connect(self._place())
            request = json.dumps([list(map(os.fsdecode, words)), str(cwd), dict(env), _umask()]).encode()
            fds = array.array("i", [give, to_out, to_err])
            peer.sendmsg([_LENGTH.pack(len(request))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            peer.sendall(request)
            for fd in (give, to_out, to_err):
                os.close(fd)
            caught: dict[int, bytes] = {}
            threads = [
                threading.Thread(target=_write, args=(put, stdin)),
                *(threading.Thread(target=_read, args=(fd, caught)) for fd in (out, err)),
            ]
            for thread in threads:
                thread.start()
            status = peer.recv(4)
            for thread in threads:
                thread.join(timeout)
        assert len(status) == 4, "the fork server is gone"
        return struct.unpack("!i", status)[0], caught[out], caught[err]


def _umask() -> int:
    here = os.umask(0)
    os.umask(here)
    return here


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


def _stop(process: subprocess.Popen[bytes], folder: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(10)
    for path in (f"{folder}/socket", folder):
        os.rmdir(path) if os.path.isdir(path) else os.path.exists(path) and os.unlink(path)


# The server's side


def import_all() -> None:
    """What the children would import, each of them anew."""
    import importlib
    import pkgutil

    import somactl

    for module in pkgutil.walk_packages(somactl.__path__, "somactl."):
        if not module.name.startswith(("somactl.testing", "somactl.__main__")):
            importlib.import_module(module.name)


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
            for stream in [*streams, sys.stdout, sys.stderr]:
                stream.flush()
        except OSError:
            os._exit(120)  # as the interpreter does
        os._exit(int(str(exc.code or 0)))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    finally:
        os._exit(99)


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
    """One run: this process waits for the child that makes it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        head, fds, _, _ = socket.recv_fds(peer, _LENGTH.size, 3)
        (length,) = _LENGTH.unpack(head)
        data = b""
        while len(data) < length:
            data += peer.recv(length - len(data))
        words, cwd, env, umask = json.loads(data)
        child = os.fork()
        if child == 0:
            peer.close()
            os.umask(umask)
            _become(fds, words, cwd, env)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(child, 0)
        peer.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
    finally:
        os._exit(0)


def _become(fds: Sequence[int], words: Sequence[str], cwd: str, env: Mapping[str, str]) -> NoReturn:
    encodings = [(stream.encoding, stream.errors) for stream in (sys.stdin, sys.stdout, sys.stderr)]
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    files: list[Any] = [io.FileIO(0, "r", closefd=False), *(io.FileIO(n, "w", closefd=False) for n in (1, 2))]
    buffers = [io.BufferedReader(files[0]), *map(io.BufferedWriter, files[1:])]
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(buffer, encoding, errors)
        for buffer, (encoding, errors) in zip(buffers, encodings, strict=True)
    )
    become_somactl(words)


if __name__ == "__main__":
    sys.path = [entry for entry in sys.path if Path(entry).name != "support"]
    _serve(sys.argv[1])
