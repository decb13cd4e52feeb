"""Who calls: the bearer token in a call's metadata, the connection's certificate, and where it is from."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Literal

import grpc

from somactl.serve.access import Access, Credentials, Denied, bearer, is_local
from somactl.serve.context import ServeContext
from somactl.serve.rpc.problem import Refused

_CODES = {
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "closed": grpc.StatusCode.PERMISSION_DENIED,
}
_NAMES = {"x509_common_name": "CN", "x509_subject_alternative_name": "SAN"}


CALLER: ContextVar[str | None] = ContextVar("caller", default=None)
"""The name of the caller who was let in, for the log. Each call has a context of its own."""
PEER: ContextVar[str | None] = ContextVar("peer", default=None)
"""The address that the call comes from; None: it did not pass the relay."""


def admit(context: ServeContext, call: Any, role: Literal["read", "prune"], namespace: str) -> None:
    """Return if the caller may open that door. Raises Denied."""
    access = context.access or Access(None, context.log)
    CALLER.set(access.admit(role, namespace, credentials(call)).name)


def credentials(call: Any) -> Credentials:
    """What the caller shows. The certificate is there only if TLS has verified it."""
    metadata = [(str(name).lower(), value) for name, value in call.invocation_metadata() or ()]
    found = [value for name, value in metadata if name == "authorization" and isinstance(value, str)]
    peer = PEER.get()
    return Credentials(
        token=bearer(found),
        certificate=certificate_names(call.auth_context() or {}),
        is_local=peer is not None and is_local(peer, None, [name for name, _ in metadata]),
        peer=peer or "",
    )


def certificate_names(found: Any) -> tuple[str, ...]:
    """`CN=...` and `SAN=...`, as a file of tokens names certificates."""
    return tuple(
        f"{kind}={value.decode('utf-8', 'replace')}"
        for name, kind in _NAMES.items()
        for value in found.get(name, ())
    )


def denied(error: Denied) -> Refused:
    """How gRPC says that a door stays shut."""
    return Refused(_CODES[error.kind], error.kind.upper(), error.message, error.hint)
