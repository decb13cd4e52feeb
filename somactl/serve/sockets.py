"""The sockets of both faces, and which of them nothing may be said on in the clear."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import NamedTuple

from somactl.errors import ConfigurationError
from somactl.serve.context import ServeOptions, refuse_plaintext
from somactl.serve.listener import address_of, bind
from somactl.serve.systemd import Systemd


class Sockets(NamedTuple):
    """Sockets that are bound. grpc: None where its face binds by its address, or there is no such face."""

    http: list[socket.socket]
    grpc: socket.socket | None


def open_sockets(options: ServeOptions, systemd: Systemd, stack: AsyncExitStack) -> Sockets:
    """What systemd has bound, and else what `options` say; `stack` closes them.

    Raises ConfigurationError; where others could read what is said, before anything is bound.
    """
    handed = systemd.sockets()
    for each in handed:
        stack.callback(each.listening.close)
    http = [each.listening for each in handed if not each.is_grpc]
    grpc = [each.listening for each in handed if each.is_grpc]
    if grpc and options.grpc is None:
        raise ConfigurationError(
            "systemd passed on a socket for gRPC, which `--grpc off` says is not served",
            hint="disable its socket unit, or leave `--grpc off` out",
        )
    if len(grpc) > 1:
        raise ConfigurationError(
            f"systemd passed on {len(grpc)} sockets for gRPC, which has one",
            hint="leave FileDescriptorName=grpc to one socket unit with one ListenStream=",
        )
    addresses = [address_of(each) for each in http] or [options.http]
    if options.grpc is not None:
        addresses += [address_of(each) for each in grpc] or [options.grpc]
    refuse_plaintext(options, addresses)
    if not http:
        http = [bind(options.http)]
        stack.callback(http[0].close)
    return Sockets(http, grpc[0] if grpc else None)
