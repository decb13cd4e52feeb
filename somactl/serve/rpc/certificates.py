"""The server's certificate as gRPC takes it: looked at for each connection, so that a renewed one is used."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import grpc

from somactl.errors import ConfigurationError
from somactl.serve.certificates import paths, tls_context, unusable
from somactl.serve.context import Tls
from somactl.serve.log import Log

LOOK_SECONDS = 1.0
"""How often the files are looked at, at most."""


class Certificates:
    """What a TLS handshake is made with. A bad file keeps what was valid before, and is told of once.

    gRPC calls `_fetch` from a thread of its own, `reload` comes from the event loop.
    """

    def __init__(self, tls: Tls, log: Log) -> None:
        """Raises ConfigurationError where a file cannot be used."""
        self._tls = tls
        self._log = log
        self._lock = threading.Lock()
        self._seen = self._looks()
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._config = load(tls)
        self._is_new = False

    def credentials(self) -> grpc.ServerCredentials:
        """Where authorities of clients are named, each client must have a certificate: none `may`."""
        return grpc.dynamic_ssl_server_credentials(
            self._config,
            self._fetch,
            require_client_authentication=self._tls.client_authorities is not None,
        )

    def reload(self) -> None:
        """Read the files, changed or not. Raises ConfigurationError, and what was valid stays."""
        with self._lock:
            self._seen = self._looks()
            self._config, self._is_new = load(self._tls), True

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new; None: go on as before."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                self._look()
            is_new, self._is_new = self._is_new, False
            return self._config if is_new else None

    def _look(self) -> None:
        self._next_look = time.monotonic() + LOOK_SECONDS
        seen = self._looks()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._config, self._is_new = load(self._tls), True
        except ConfigurationError as exc:
            self._log.event("certificates", why=exc.message, kept="those from before")
        else:
            self._log.event("certificates", reloaded=True, face="grpc")

    def _looks(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_looks(path) for path in paths(self._tls))


def load(tls: Tls) -> grpc.ServerCertificateConfiguration:
    """Raises ConfigurationError for a file that cannot be read, or a key that is of another certificate."""
    tls_context(tls)
    try:
        certificate, key, *authorities = (Path(path).read_bytes() for path in paths(tls))
    except OSError as exc:
        raise unusable(tls, exc) from None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], *authorities)


def _looks(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
