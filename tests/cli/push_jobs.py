"""Jobs that push, and what stands at the gateway afterwards."""

from __future__ import annotations

from typing import Any

from servers.prometheus import Pushgateway
from support.violation import put_violation
from tests.cli.conftest import Result, Shell, density

TIMEOUT = 10.0
"""Seconds that a push may take at most."""
AUDIT = {"job": "verify-psd", "namespace": "default"}
CODE = "somabrain_job_exit_code"
LAST_RUN = "somabrain_job_last_run_timestamp_seconds"
LAST_SUCCESS = "somabrain_job_last_success_timestamp_seconds"
RHO_SUCCESS = "somabrain_rho_last_success_timestamp_seconds"


class Jobs:
    """A shell with two matrices in its store, and a gateway that its jobs push to."""

    def __init__(self, shell: Shell, gateway: Pushgateway) -> None:
        self.shell, self.gateway = shell, gateway
        self.env = {"SOMACTL_PUSH_GATEWAY": gateway.url}
        self.shell.commit("a", density(4))
        self.shell.commit("b", density(4, seed=1))

    def __call__(
        self, *words: str, code: int = 0, env: dict[str, str] | None = None, **options: Any
    ) -> Result:
        result = self.shell(*words, env={**self.env, **(env or {})}, **options)
        assert result.code == code, (result.code, result.err, result.text)
        return result

    def value(self, name: str, **labels: str) -> float | None:
        return self.gateway.value(name, **{**AUDIT, **labels})

    def break_one(self, key: str = "a") -> None:
        """Put a matrix there that is none of a density, past every check."""
        put_violation(f"sqlite:///{self.shell.folder / 'somactl.db'}", key)


def value_in(body: bytes, name: str) -> float:
    """The value of the sample `name` in a text that was pushed or written."""
    return next(float(line.split()[-1]) for line in body.decode().splitlines() if line.startswith(f"{name} "))
