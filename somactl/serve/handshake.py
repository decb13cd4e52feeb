"""Accepts connections for TLS, and bounds those on which it was not agreed on yet.

The event loop's own server knows nothing of a connection before its handshake has ended: one that never ends
could neither be counted nor closed for another.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from somactl.serve.limits import Gate, LimitedProtocol

AT_ONCE = 100
"""Connections that are accepted before others are served."""
PAUSE_SECONDS = 0.1
"""How long nothing is accepted once no descriptor was left."""


class Doorman:
    """Accepts on a socket that listens, with what `context` says for each connection."""

    def __init__(
        self,
        listening: socket.socket,
        gate: Gate,
        context: Callable[[], ssl.SSLContext],
        speaker: Callable[[], LimitedProtocol],
    ) -> None:
        self._listening = listening
        self._gate = gate
        self._context = context
        self._speaker = speaker
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _open(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, peer = self._listening.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError:  # there is no descriptor left, until others end
                self._loop.remove_reader(self._listening)
                self._again = self._loop.call_later(PAUSE_SECONDS, self._open)
                return
            client = peer[0] if isinstance(peer, tuple) else None
            _Handshake(self._gate, accepted, client).begin(self._context(), self._speaker())


class _Handshake:
    """One connection until TLS is agreed on, for which it has as long as for a header."""

    def __init__(self, gate: Gate, accepted: socket.socket, client: str | None) -> None:
        self._gate = gate
        self._socket = accepted
        self._client = client
        self._task: asyncio.Task[None] | None = None

    def begin(self, context: ssl.SSLContext, speaker: LimitedProtocol) -> None:
        self._socket.setblocking(False)
        if not self._gate.admit(self):
            self._gate.refuse("connections", self._client, "too many connections")
            self._socket.close()
            return
        speaker.comes_from(self)
        self._task = asyncio.get_running_loop().create_task(self._shake(context, speaker))

    def evict(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def drain(self) -> None:
        """Nothing was asked yet."""

    async def _shake(self, context: ssl.SSLContext, speaker: LimitedProtocol) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: speaker,
                self._socket,
                ssl=context,
                ssl_handshake_timeout=self._gate.limits.header_seconds,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, TimeoutError) as exc:
            self._gate.refuse("tls", self._client, f"no handshake: {type(exc).__name__}")
        finally:
            self._gate.leave(self)
