"""In Python, an error's hint names no flag and no command, and the calls that it suggests can be made."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import somactl
from somactl.api import advice
from somactl.cli.suggest import PARAMETERS, in_flags
from somactl.errors import SomactlError

RHO = np.eye(2) / 2
NEGATIVE = np.diag([1.0 + 4e-9, -4e-9])
CLI_WORDS = re.compile(r"(?<!\S)--[a-z]|\bsomactl [a-z]|`[a-z-]+ [^`]*`")

Case = Callable[[somactl.Store], Awaitable[Any]]


def committing(array: Any, key: str = "x", expected: Any = None, **policy: Any) -> Case:
    async def case(store: somactl.Store) -> None:
        await somactl.commit_matrix_update(
            store, {key: array}, expected_version=expected, policy=somactl.Policy(**policy)
        )

    return case


async def commit_nothing(store: somactl.Store) -> None:
    await somactl.commit_matrix_update(store, {})


async def reuse_an_id(store: somactl.Store) -> None:
    await somactl.commit_matrix_update(store, {"r": RHO}, commit_id="once")
    await somactl.commit_matrix_update(store, {"s": RHO}, commit_id="once")


async def commit_what_was_given_up(store: somactl.Store) -> None:
    await store.commit_status("gone", resolve=True)
    await somactl.commit_matrix_update(store, {"r": RHO}, commit_id="gone")


async def read_deleted(store: somactl.Store) -> None:
    await somactl.commit_matrix_update(store, {"d": RHO})
    await somactl.commit_matrix_update(store, {"d": None})
    await somactl.read_matrix(store, "d")


def reading(key: str, version: int | None = None) -> Case:
    return lambda store: somactl.read_matrix(store, key, version)


CASES: dict[str, Case] = {
    "negative": committing(np.diag([1.25, -0.25])),
    "trace": committing(2 * RHO),
    "clampable": committing(NEGATIVE, on_clampable="refuse"),
    "too far to clamp": committing(np.diag([1.25, -0.25]), clamp=True, max_move=1e-3),
    "undecided": committing(RHO, tolerances=somactl.Tolerances(psd=0.0)),
    "not finite": committing(np.array([[np.nan, 0], [0, 1]])),
    "not square": committing(np.ones((2, 3))),
    "tall": committing(np.ones((3, 2))),
    "lists": committing([[1.25, 0], [0, -0.25]]),
    "ragged": committing([[1.0], [0.5, 0.5]]),
    "an inexact integer among them": committing([[2**53 + 1, 0.5], [0.5, 0.5]]),
    "a vector": committing(np.ones(3)),
    "text": committing("rho"),
    "masked": committing(np.ma.masked_array(RHO, mask=True)),
    "masked, normalised": committing(np.ma.masked_array(RHO, mask=True), normalize=True),
    "an inexact integer": committing(np.diag([2**53 + 1, 0]), kind="matrix"),
    "complex as real": committing(RHO.astype(complex), dtype="float64", kind="matrix"),
    "an unknown dtype": committing(RHO, dtype="float16"),
    "an unknown layout": committing(RHO, layout="packed"),
    "an unknown kind": committing(RHO, kind="state"),
    "not Hermitian to the bit": committing(RHO + np.eye(2, k=1), kind="matrix", layout="hermitian"),
    "overflow": committing(1e300 * RHO, kind="matrix", dtype="float32"),
    "an empty key": committing(RHO, key=""),
    "a conflict": committing(RHO, expected=7),
    "a matrix in place of a rho": committing(RHO, key="a", kind="matrix"),
    "nothing": commit_nothing,
    "an id used twice": reuse_an_id,
    "an id given up": commit_what_was_given_up,
    "an unknown key": reading("nowhere"),
    "an old version": reading("r", 1),
    "a version to come": reading("a", 99),
    "a deleted key": read_deleted,
}


@pytest.mark.parametrize("name", CASES)
async def test_hints_speak_python(name: str, tmp_path: Path) -> None:
    """The error leaves the block with its advice as notes, and each call in them can be made."""
    url = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(SomactlError) as raised:
        await provoke(url, CASES[name])
    error = raised.value
    assert getattr(error, "__notes__", []) == advice(error)
    assert (error.store, error.namespace) == (url, "default")
    for text in (error.message, error.hint or "", *advice(error)):
        assert not CLI_WORDS.search(text), text
    for named in re.findall(r"`([^`]+)`", error.hint or ""):
        assert named.split("=")[0] in PARAMETERS
    async with somactl.open_store(url) as store:
        for line in advice(error):
            if line.startswith("try: "):
                await called(line.removeprefix("try: "), store)


async def provoke(url: str, case: Case) -> None:
    async with somactl.open_store(url) as store:
        await somactl.commit_matrix_update(store, {"a": RHO})
        await case(store)


async def called(expression: str, store: somactl.Store) -> Any:
    """The value of an expression that may hold `await` and names `store` alone."""
    code = compile(expression, "<note>", "eval", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, {"store": store})
    return await result if inspect.isawaitable(result) else result


def test_every_parameter_a_hint_may_name_is_one_of_python_and_a_flag() -> None:
    from somactl.cli.app import build

    known = {field.name for field in dataclasses.fields(somactl.Policy)}
    known |= set(inspect.signature(somactl.open_store).parameters)
    known |= set(inspect.signature(somactl.commit_matrix_update).parameters)
    assert known >= PARAMETERS

    root: Any = build()
    flags = {
        word for each in (root, *root.commands.values()) for option in each.params for word in option.opts
    }
    assert {"--" + name.replace("_", "-") for name in PARAMETERS} <= flags


def test_the_command_line_says_the_same_in_flags() -> None:
    assert in_flags("`clamp` `max_move=D` stores it") == "--clamp --max-move D stores it"
    assert in_flags("`kind=matrix`, or see `hint` and `x y`") == "--kind matrix, or see `hint` and `x y`"
