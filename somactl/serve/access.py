"""Who may open which door: reads of values, and prune orders.

    access = Access.open("/etc/somactl/tokens", log)  # None: no doors but reads from here
    caller = access.admit("prune", "acme", Credentials(token="..."))  # raises Denied

A face (HTTP, gRPC) collects `Credentials` and shows `Denied` in its own way. What is refused is logged, so
many a second and the rest as a number. No token ever stands in a log, an error or a report.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from somactl.serve.log import Log
from somactl.serve.tokens import LOCAL, MAX_TOKEN, Caller, Role, TokenFile

_LOCAL_CALLER = Caller(LOCAL, frozenset[Role]({"read"}))


class Credentials(msgspec.Struct, frozen=True):
    """What a caller shows.

    token        that of `Authorization: Bearer`; "" where that is there and is none
    certificate  names of the client's certificate, if it showed one that was verified: `names_in`
    is_local     it surely comes from this machine: `is_local`
    peer         the address it comes from, for the log
    known        called with the caller's name once that is known
    """

    token: str | None = None
    certificate: tuple[str, ...] = ()
    is_local: bool = False
    peer: str = ""
    known: Callable[[str], None] | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.peer})"


class Denied(Exception):
    """The door stays shut.

    unauthenticated  it is not known who calls (HTTP 401, gRPC UNAUTHENTICATED)
    forbidden        it is known, and they may not (403, PERMISSION_DENIED)
    closed           it opens to no caller: access is not configured (403, PERMISSION_DENIED)
    """

    def __init__(
        self, kind: Literal["unauthenticated", "forbidden", "closed"], message: str, hint: str
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class Access:
    """Admits callers by the table of a file, as that is now. Without one, only reads from this machine."""

    def __init__(self, tokens: TokenFile | None, log: Log) -> None:
        self._tokens = tokens
        self._log = log

    @classmethod
    def open(cls, path: str | None, log: Log) -> Access:
        """Raises ConfigurationError where the file cannot be used."""
        return cls(None if path is None else TokenFile(path, log), log)

    @property
    def is_configured(self) -> bool:
        return self._tokens is not None

    @property
    def problem(self) -> str | None:
        """Why the file as it is now is not used, and the callers of before are; None where all is well."""
        return None if self._tokens is None else self._tokens.problem

    def reload(self) -> bool:
        """Read the file again, as on SIGHUP; whether it is used."""
        return self._tokens is None or self._tokens.reload()

    def admit(self, role: Role, namespace: str | None, credentials: Credentials) -> Caller:
        """Who opens the door `role` of that namespace, or of any that they may use. Raises Denied."""
        try:
            caller = self._identify(role, credentials)
            if credentials.known is not None:
                credentials.known(caller.name)
            _refuse_wrong(caller, role, namespace)
        except Denied as exc:
            facts = {
                "door": role,
                "namespace": namespace and namespace[:64],
                "client": credentials.peer or None,
            }
            self._log.limited("refused", f"refused {role}", why=exc.message, **facts)
            raise
        return caller

    def _identify(self, role: Role, credentials: Credentials) -> Caller:
        caller = None
        if self._tokens is not None:
            table, token = self._tokens.table, credentials.token
            if token is not None:  # and where it is wrong, nothing else helps
                caller = table.by_token(token) if 0 < len(token) <= MAX_TOKEN else None
                if caller is None:
                    raise Denied("unauthenticated", "the token is not known", _TOKEN_HINT)
            elif credentials.certificate:
                caller = table.by_certificate(credentials.certificate)
        if caller is None and role == "read" and credentials.is_local:
            return _LOCAL_CALLER
        if self._tokens is None:
            raise Denied("closed", "this door is shut: access is not configured", _CLOSED_HINT)
        if caller is None:
            raise Denied("unauthenticated", "a caller must say who they are", _TOKEN_HINT)
        return caller


_TOKEN_HINT = "send `Authorization: Bearer TOKEN`, with a token of the file that the service was given"
_CLOSED_HINT = "an operator opens it by giving the service a file of tokens"


def _refuse_wrong(caller: Caller, role: Role, namespace: str | None) -> None:
    if role not in caller.roles:
        raise Denied(
            "forbidden",
            f"caller {caller.name} has not the role {role}",
            "have it added in the file of tokens",
        )
    if namespace is not None and not caller.may_use(namespace):
        raise Denied(
            "forbidden",
            f"caller {caller.name} may not use the namespace {namespace!r}",
            "have it added in the file of tokens",
        )


def bearer(authorization: Sequence[str]) -> str | None:
    """The token in a request's `Authorization` headers; "" for what is none, None where there are none."""
    if not authorization:
        return None
    scheme, _, token = authorization[0].strip().partition(" ")
    return token.strip() if len(authorization) == 1 and scheme.lower() == "bearer" else ""


def names_in(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names in a verified certificate, as `ssl.SSLSocket.getpeercert()` tells it, as a file of tokens
    would have them: `CN=...` of its subject, `SAN=...` of its alternative names."""
    if not certificate:
        return ()
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    common = [f"CN={value}" for name, value in subject if name == "commonName"]
    return (*common, *(f"SAN={value}" for _, value in certificate.get("subjectAltName", ())))


_FORWARDING = ("forwarded", "via", "x-forwarded-", "x-real-ip", "x-envoy-", "x-original-")


def is_local(peer: str | None, host: str | None, header_names: Sequence[str] = ()) -> bool:
    """Whether a request surely comes from a program of this machine.

    Not so, though its peer is loopback: what a proxy passed on, which says so in a header; and what a
    browser was made to send by a page of another site, which shows in the host that it asked for.
    """
    if peer is None or not _is_loopback(peer):
        return False
    if host is not None and not (_bare(host).lower() == "localhost" or _is_loopback(_bare(host))):
        return False
    return not any(name.lower().startswith(_FORWARDING) for name in header_names)


def _bare(host: str) -> str:
    """A host without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
