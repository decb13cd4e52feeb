"""The messages of the protocol have what the reports have; errors are told by one table."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import grpc
import msgspec
import pytest

from somactl import errors
from somactl.report import EXIT_CODES, OrderStatus, PruneReport
from somactl.report.health import HealthReport, WatchedKey
from somactl.serve.codes import GRPC_CODES, HTTP_STATUS
from somactl.serve.pb import prune_pb2, rho_pb2
from somactl.serve.rpc.problem import code_of
from somactl.serve.rpc.wire import fill

PAIRS = [
    (rho_pb2.HealthReport, HealthReport),
    (rho_pb2.WatchedKey, WatchedKey),
    (prune_pb2.PruneReport, PruneReport),
    (prune_pb2.OrderStatus, OrderStatus),
]


def _without_none(kind: Any) -> tuple[Any, bool]:
    """The type beside None, and whether it may be None."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    (inner,) = [each for each in get_args(kind) if each is not type(None)]
    return inner, type(None) in get_args(kind)


def _compare(descriptor: Any, struct: Any, seen: set[str]) -> None:
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    fields = {each.name: each.type for each in msgspec.structs.fields(struct)}
    assert {each.name for each in descriptor.fields} == {*fields}, descriptor.full_name
    for field in descriptor.fields:
        kind, optional = _without_none(fields[field.name])
        inner = [each for each in (kind, *get_args(kind)) if isinstance(each, type)]
        structs = [each for each in inner if issubclass(each, msgspec.Struct)]
        if structs:
            message = field.message_type
            value = message.fields_by_name.get("value") if message.GetOptions().map_entry else None
            _compare(value.message_type if value is not None else message, structs[0], seen)
        elif get_origin(kind) not in (list, dict):
            assert field.has_presence == optional, f"{descriptor.full_name}.{field.name}"


@pytest.mark.parametrize(("message", "struct"), PAIRS)
def test_a_message_has_every_field_of_the_report_and_can_leave_out_what_may_be_none(
    message: Any, struct: Any
) -> None:
    seen: set[str] = set()
    _compare(message.DESCRIPTOR, struct, seen)
    assert message.DESCRIPTOR.full_name in seen


def test_a_report_travels_whole() -> None:
    report = PruneReport(
        order_id="o",
        counts={"deleted": 2, "unknown": 0},
        codes=[0, 4],
        warnings=["a", "b"],
        batch=None,
        amount=1 << 40,
        final=True,
    )
    found = fill(prune_pb2.PruneReport(), report)
    assert dict(found.counts) == {"deleted": 2, "unknown": 0}
    assert ([*found.codes], [*found.warnings]) == ([0, 4], ["a", "b"])
    assert (found.order_id, found.HasField("batch"), found.amount, found.final) == ("o", False, 1 << 40, True)


def test_a_part_that_is_all_zero_is_there_all_the_same() -> None:
    found = fill(prune_pb2.OrderStatus(), OrderStatus(order_id="o", namespace="a", state="done"))
    assert not found.HasField("report")
    status = OrderStatus(order_id="o", namespace="a", state="done", report=PruneReport())
    assert fill(prune_pb2.OrderStatus(), status).HasField("report")


def test_every_exit_code_of_a_failure_has_a_status_of_both_protocols() -> None:
    failures = {each.exit_code for each in _tree(errors.SomactlError)}
    assert {*HTTP_STATUS} == {*GRPC_CODES} >= failures
    assert {*HTTP_STATUS} <= {*EXIT_CODES}
    assert {grpc.StatusCode[name] for name in GRPC_CODES.values()}.isdisjoint({grpc.StatusCode.OK})
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.VersionConflict("m", conflicts={}), "ABORTED"),
        (errors.StoreTimeout("m"), "UNAVAILABLE"),
        (errors.StoreFull("m"), "FAILED_PRECONDITION"),  # or a library would send it again by itself
        (errors.KeyNotFound("m"), "NOT_FOUND"),
        (errors.OrderRefused("m"), "INVALID_ARGUMENT"),
        (errors.OutcomeUnknown("m", commit_id="c"), "DEADLINE_EXCEEDED"),
        (errors.SomactlError("m"), "INTERNAL"),
    ],
)
def test_an_error_is_told_by_its_exit_code(error: errors.SomactlError, code: str) -> None:
    assert code_of(error).name == code


def _tree(root: type[errors.SomactlError]) -> list[type[errors.SomactlError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]
