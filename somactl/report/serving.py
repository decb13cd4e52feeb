"""What `somactl serve` says when it has ended."""

from __future__ import annotations

from somactl.report.base import Report


class ServeReport(Report, kw_only=True, tag="serve"):
    """What a server did until it ended.

    http, grpc       where it listened; grpc: None where that was off
    seconds          from its start to its end
    requests         answered over HTTP
    refused          reason -> requests and connections that the limits refused
    cut_off          requests that the grace was too short for
    prover_restarts  how often the process that proves was started again
    """

    namespaces: list[str] = []
    http: str = ""
    grpc: str | None = None
    seconds: float = 0.0
    requests: int = 0
    refused: dict[str, int] = {}
    cut_off: int = 0
    prover_restarts: int = 0
