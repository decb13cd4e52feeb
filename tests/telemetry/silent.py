"""Servers that fail a client: one that never answers, one that answers what it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Answering:
    """A server that keeps the first line of each request, and answers each with the same status: a push that
    succeeds without a word, as a Pushgateway does, or with a page."""

    def __init__(
        self,
        status: str = "200 OK",
        body: bytes = b"",
        *,
        page: bytes = b"",
        drips: bool = False,
        dies: bool = False,
    ) -> None:
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self._answer, self._pushed = (
            f"HTTP/1.1 {status}\r\nContent-Length: {len(each)}\r\n\r\n".encode() + each
            for each in (body, page if status.startswith("2") else body)
        )
        self._drips, self._dies = drips, dies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            first = lines.readline().decode().strip()
            length = 0
            while (line := lines.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.bodies.append(lines.read(length))
            self.requests.append(first)
            if self._dies:
                return
            if not self._drips:
                client.sendall(self._pushed if first.startswith("POST ") else self._answer)
                return
            gone = threading.Event()
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000:  # one byte now and then, for ever
                if gone.wait(0.2):
                    return
                try:
                    client.sendall(bytes([byte]))
                except OSError:
                    return
