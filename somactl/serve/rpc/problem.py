"""What went wrong, as gRPC tells it: a status code, a message, and a google.rpc.ErrorInfo for machines.

A client finds it in `grpc-status-details-bin`, where the libraries of all languages look. `reason` is the
name of somactl's error, `domain` is `somactl`, and `metadata` has `exit_code`, `retryable`, and where there
is one `hint` and `runbook`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from somactl.errors import SomactlError
from somactl.serve.codes import GRPC_CODES

DOMAIN = "somactl"
MAX_TEXT = 1000
"""Characters of a message or a hint: all of it must fit into a header of 8 KiB."""


class Refused(Exception):
    """A call that is not answered, for a reason that is no error of somactl's."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.hint = hint


def code_of(error: SomactlError) -> grpc.StatusCode:
    """The status that says as much as the exit code does.

    A library may repeat an UNAVAILABLE call by itself: what that cannot help is FAILED_PRECONDITION.
    """
    code = grpc.StatusCode[GRPC_CODES.get(error.exit_code, "INTERNAL")]
    if error.exit_code == 13 and not error.retryable:
        return grpc.StatusCode.FAILED_PRECONDITION
    return code


async def refuse(call: grpc.aio.ServicerContext, error: Refused | SomactlError) -> NoReturn:
    """End the call with what is wrong."""
    if isinstance(error, Refused):
        await _abort(call, error.code, error.reason, error.message, {"hint": error.hint})
    await _abort(
        call,
        code_of(error),
        type(error).__name__,
        error.message,
        {
            "exit_code": str(error.exit_code),
            "retryable": "true" if error.retryable else "false",
            "hint": error.hint,
            "runbook": error.runbook and f"RUNBOOKS/{error.runbook}.md",
        },
    )


async def _abort(
    call: Any, code: grpc.StatusCode, reason: str, message: str, facts: Mapping[str, str | None]
) -> NoReturn:
    metadata = {name: _short(text) for name, text in facts.items() if text}
    status = status_pb2.Status(code=code.value[0], message=_short(message))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await call.abort(code, _short(message), trailing)
    raise AssertionError("abort raises")


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 4]} ..."
