"""A throw-away certificate authority, and a certificate of 127.0.0.1 that it signed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from servers.process import find

_EXTENSIONS = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1
"""


class Certificates(NamedTuple):
    """PEM files. The server's name is 127.0.0.1 and nothing else: `localhost` must fail verification."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """New ones in `folder`, valid for a day."""
    config = folder / "openssl.cnf"
    config.write_text(_EXTENSIONS)
    paths = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key, request = folder / "ca.key", folder / "server.csr"
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", config)
    _openssl(
        *("req", "-x509", *new_key, "-extensions", "authority", "-subj", "/CN=somactl tests"),
        *("-days", "1", "-keyout", ca_key, "-out", paths.ca),
    )
    _openssl("req", *new_key, "-subj", "/CN=127.0.0.1", "-keyout", paths.key, "-out", request)
    _openssl(
        *("x509", "-req", "-in", request, "-CA", paths.ca, "-CAkey", ca_key, "-set_serial", "1"),
        *("-days", "1", "-extfile", config, "-extensions", "server", "-out", paths.certificate),
    )
    return paths


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run([find("openssl"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"openssl {arguments[0]} failed: {done.stderr}"
