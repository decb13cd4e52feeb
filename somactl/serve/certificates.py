"""The certificates that both faces show, and those by which they know their callers."""

from __future__ import annotations

import ssl

from somactl.errors import ConfigurationError
from somactl.serve.context import Tls


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises ConfigurationError for files that are not there, or no pair of a certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
        if tls.client_authorities is not None:
            context.load_verify_locations(tls.client_authorities)
            context.verify_mode = ssl.CERT_OPTIONAL  # without one a client may ask for health
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise unusable(tls, exc) from None
    return context


def unusable(tls: Tls, exc: OSError | ValueError) -> ConfigurationError:
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return ConfigurationError(
        f"the certificates cannot be used ({', '.join(paths(tls))}): {why}",
        hint="name PEM files that belong together, of a key without a password",
    )


def paths(tls: Tls) -> list[str]:
    """The files: certificate, key, and authorities where they are named."""
    return [tls.certificate, tls.key, *([] if tls.client_authorities is None else [tls.client_authorities])]


def _no_password() -> str:
    raise ValueError("the key has a password")
