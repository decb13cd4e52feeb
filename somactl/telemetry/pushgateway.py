"""Talk to a Prometheus Pushgateway: push a group, delete one, ask when each one last ran.

All that one `Gateway` does ends within its time, wherever a server falls silent: each request runs in a
thread that is left behind when the time is over. What was sent is sent by POST, which replaces the families
that are named and leaves the group's others; PUT would erase a job's last success with its first failure.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from somactl.errors import ConfigurationError, SecretExposed, UsageError
from somactl.telemetry.catalogue import JOBS, PREFIX

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from ssl import SSLContext

TIMEOUT = 10.0
"""Seconds for all that a run pushes, from the first connection to the last answer."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LAST_RUN = PREFIX + "job_last_run_timestamp_seconds"

_MOST_BYTES = 64 << 20
_MOST_SECRET_BYTES = 4096
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_URL = re.compile(rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>\d{{1,5}}))?(?P<path>/[^\s?#]*)?")
_PLAIN = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REFUSED = (400, 413, 422)
T = TypeVar("T")


class PushFailed(Exception):
    """One sentence that says why nothing was pushed. `refused`: the gateway took offence at what was sent,
    and will again."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: `http://gateway:9091`, with the path before what it serves."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_url(text: str, place: str, *, by_flag: bool) -> Address:
    """The address that `text`, found at `place`, names.

    Raises SecretExposed for a login in it, by flag or not; UsageError (by flag) or ConfigurationError for
    what is no such URL, which is not repeated, as any part of it may be a secret.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@", text):
        raise SecretExposed(
            f"{place}: the URL holds a login, which is not to stand there",
            hint="name the user with SOMACTL_PUSH_USER and the file of the password with "
            "SOMACTL_PUSH_PASSWORD_FILE",
        )
    found = _URL.fullmatch(text)
    port = int(found["port"] or (443 if found["scheme"] == "https" else 80)) if found else 0
    if found is None or not 0 < port < 65_536:
        error = UsageError if by_flag else ConfigurationError
        raise error(f"{place}: this is no URL of a server", hint="write http://HOST:PORT or https://HOST")
    return Address(found["scheme"], found["host"].strip("[]"), port, (found["path"] or "").rstrip("/"))


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a gateway, by the names of files: what they hold is read when it is needed.

    user, password_file  for basic authentication
    ca                   PEM of the authorities to trust, in place of the system's
    certificate, key     PEM of the client's own; the key may stand in the file of the certificate
    """

    url: Address
    user: str = ""
    password_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def headers(self) -> dict[str, str]:
        """Raises OSError where the password cannot be read; what names its file may be the password."""
        if not self.user:
            return {}
        password = b""
        if self.password_file:
            try:
                with Path(self.password_file).open("rb") as file:
                    password = file.read(_MOST_SECRET_BYTES).rstrip(b"\r\n")
            except OSError as exc:
                raise OSError(exc.errno, exc.strerror, "the file of SOMACTL_PUSH_PASSWORD_FILE") from None
        login = base64.b64encode(self.user.encode() + b":" + password).decode()
        return {"Authorization": f"Basic {login}"}

    def context(self) -> SSLContext:
        """Raises OSError where a file cannot be read, or is none of what it should be."""
        import ssl

        context = ssl.create_default_context(cafile=self.ca or None)
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key or None, password=lambda: "")
        return context


class Client:
    """Requests to one server, all of which together take `seconds` at most."""

    def __init__(self, access: Access, seconds: float = TIMEOUT) -> None:
        self.access = access
        self._end = time.monotonic() + seconds
        self._seconds = seconds

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer. Raises PushFailed where there is none in time."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise PushFailed(self._silent())
        try:
            return _within(left, lambda: self._exchange(method, path, body, left))
        except TimeoutError:
            raise PushFailed(self._silent()) from None
        except Exception as exc:  # of sockets, TLS, HTTP, files
            raise PushFailed(_why(exc)) from None

    def _silent(self) -> str:
        return f"no answer within {round(self._seconds, 1):g} s"

    def _exchange(self, method: str, path: str, body: bytes, seconds: float) -> tuple[int, bytes]:
        headers = {"User-Agent": "somactl", "Connection": "close", **self.access.headers()}
        if body:
            headers["Content-Type"] = CONTENT_TYPE
        connection = self._connection(seconds)
        try:
            connection.request(method, self.access.url.path + path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES)
        finally:
            connection.close()

    def _connection(self, seconds: float) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        url = self.access.url
        if url.scheme == "http":
            return HTTPConnection(url.host, url.port, timeout=seconds)
        return HTTPSConnection(url.host, url.port, timeout=seconds, context=self.access.context())


class Gateway:
    """One Pushgateway, for the pushes of one run."""

    def __init__(self, access: Access, seconds: float = TIMEOUT) -> None:
        self._client = Client(access, seconds)

    def __str__(self) -> str:
        return str(self._client.access.url)

    def push(self, group: Mapping[str, str], text: bytes) -> None:
        """Replace the families that `text` has, in that group. Raises PushFailed.

        A Pushgateway that took it answers without a word; a page is that of a proxy, which kept nothing.
        """
        if self._expect("POST", _path(group), text):
            raise PushFailed("it answers as no Pushgateway does, so nothing was kept there")

    def delete(self, group: Mapping[str, str]) -> None:
        """Delete the group that has exactly these labels; harmless where there is none. Raises PushFailed."""
        self._expect("DELETE", _path(group))

    def last_runs(self) -> dict[frozenset[tuple[str, str]], float]:
        """group -> when the run ended that was pushed last. Raises PushFailed."""
        answer = self._expect("GET", "/api/v1/metrics")
        try:
            return dict(_last_runs(json.loads(answer)["data"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PushFailed("it does not list its groups as a Pushgateway does") from None

    def _expect(self, method: str, path: str, body: bytes = b"") -> bytes:
        status, answer = self._client.request(method, path, body)
        if 200 <= status < 300:
            return answer
        told = " ".join(answer[:500].decode("utf-8", "replace").split())[:200]
        told = "".join(c for c in told if c.isprintable())
        raise PushFailed(f"it answers {status}{f': {told}' if told else ''}", refused=status in _REFUSED)


def check_job(job: str, command: str) -> str:
    """`job`, if what `command` pushes may be called so: what other commands push is called as they are.
    Raises UsageError."""
    if job != command and job in JOBS:
        raise UsageError(f"--job: {job} is what another command pushes", hint="give it a name of its own")
    return check_label("--job", job)


def check_label(name: str, value: str) -> str:
    """`value`, if it may be that of a label of a group. Raises UsageError."""
    if not value or not value.isascii() or not value.isprintable():
        raise UsageError(f"the {name} of what is pushed is empty, or not printable ASCII")
    return value


def _path(group: Mapping[str, str]) -> str:
    """That of the group; `job` comes first, as the gateway demands it."""
    labels = {"job": group["job"], **group}
    return "/metrics/" + "/".join(_segment(name, value) for name, value in labels.items())


def _segment(name: str, value: str) -> str:
    """A value that a path cannot carry as it is, like `2/8` or `..`, goes in base64."""
    if _PLAIN.fullmatch(value):
        return f"{name}/{value}"
    if "/" not in value and value.strip("."):
        return f"{name}/{quote(value, safe='')}"
    return f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode()}"


def _last_runs(groups: list[dict[str, Any]]) -> Any:
    for each in groups:
        if LAST_RUN in each:
            for metric in each[LAST_RUN]["metrics"]:
                yield frozenset(each["labels"].items()), float(metric["value"])


@dataclass(slots=True)
class _Answer:
    value: Any = None
    error: Exception | None = None
    there: bool = field(default=False)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises, if it does in time; else TimeoutError, and its thread is left behind."""
    answer = _Answer()

    def run() -> None:
        try:
            answer.value = call()
        except Exception as exc:
            answer.error = exc
        answer.there = True

    thread = threading.Thread(target=run, daemon=True, name="somactl push")
    thread.start()
    thread.join(seconds)
    if not answer.there:
        raise TimeoutError
    if answer.error is not None:
        raise answer.error
    value: T = answer.value
    return value


def _why(error: Exception) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'it failed').lower()}"
    if isinstance(error, OSError) and error.strerror:
        return re.sub(r" \(_ssl\.c:\d+\)$", "", error.strerror.lower())
    return f"{type(error).__name__}: {error}".rstrip(": ")
