"""`somactl` as a program that a fork server runs: its words, streams, folder and environment go there,
signals are passed on, and it ends as the run does.

It is started by the thousand, so it imports next to nothing.
"""

from __future__ import annotations

import _signal
import _socket
import os
import resource
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

PASSED_ON = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


def main(address: str) -> NoReturn:
    """Be the run: the end of this process ends it too."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, PASSED_ON)
    streams = [number if _is_open(number) else None for number in range(3)]
    peer = connect(address, sys.argv[1:], os.getcwd(), os.environ, streams)
    child = receive(peer)
    for number in PASSED_ON:
        _signal.signal(number, lambda number, _: os.kill(child, number))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, PASSED_ON)
    code = receive(peer)
    if code < 0:
        if -code in PASSED_ON:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def connect(
    address: str, words: Sequence[str], folder: str, env: Mapping[str, str], streams: Sequence[int | None]
) -> Any:
    """A socket on which a run was ordered; it answers the process and then the exit code: see `receive`."""
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    peer.connect(address)
    umask = os.umask(0)
    os.umask(umask)
    opened = "".join(str(at) for at, stream in enumerate(streams) if stream is not None)
    settings = [f"{name}={value}" for name, value in env.items()]
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    fields = [opened, oct(umask), str(limit), folder, str(len(words)), *words, *settings]
    order = b"\0".join(map(os.fsencode, fields))
    descriptors = array("i", [stream for stream in streams if stream is not None])
    peer.sendmsg(
        [_packed(len(order))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)] * bool(opened)
    )
    peer.sendall(order)
    return peer


def receive(peer: Any) -> int:
    """A number from the server; raises EOFError where there is no server any more."""
    packed = peer.recv(4)
    if len(packed) < 4:
        raise EOFError("the fork server is gone")
    return int.from_bytes(packed, "big", signed=True)


def _packed(number: int) -> bytes:
    return number.to_bytes(4, "big", signed=True)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
