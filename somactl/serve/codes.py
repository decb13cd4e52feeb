"""What an exit code is called in the protocols: one table, whose rows a test compares with the exit codes."""

from __future__ import annotations

from typing import Final

# exit code: HTTP status, gRPC code. What is not here is a bug in somactl: 500, INTERNAL.
_CODES: Final[dict[int, tuple[int, str]]] = {
    1: (500, "INTERNAL"),
    2: (400, "INVALID_ARGUMENT"),
    3: (500, "DATA_LOSS"),
    10: (500, "INTERNAL"),
    11: (422, "INVALID_ARGUMENT"),
    12: (409, "ABORTED"),
    13: (503, "UNAVAILABLE"),
    14: (504, "DEADLINE_EXCEEDED"),  # which promises as little about a write: it may have been done
    15: (404, "NOT_FOUND"),
    16: (409, "ABORTED"),
    17: (500, "INTERNAL"),
    130: (503, "UNAVAILABLE"),
    143: (503, "UNAVAILABLE"),
}
HTTP_STATUS: Final = {code: status for code, (status, _) in _CODES.items()}
GRPC_CODES: Final = {code: name for code, (_, name) in _CODES.items()}
