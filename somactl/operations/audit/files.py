"""Prove what stands in files, in whatever form they hold a matrix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from somactl.errors import InputRejected, SomactlError
from somactl.operations.audit.model import Check, Proven, Tally
from somactl.operations.audit.prove import judged
from somactl.report import Checked

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class FileInput:
    """A file to check. `read` is called when its turn comes, so that memory holds one file at a time."""

    name: str
    read: Callable[[], bytes]


async def prove_files(files: Iterable[FileInput], check: Check, tally: Tally) -> bool:
    """Check each file; False if `fail_fast` ended it."""
    for file in files:
        try:
            content = file.read()  # here and not in the thread, where a signal could not end it
        except InputRejected as exc:
            checked = Checked(source=file.name, outcome="rejected", error=exc.message)
        else:
            checked = await asyncio.to_thread(_check_file, file.name, content, check)
        if not tally.add(Proven.of(checked)):
            return False
    return True


def _check_file(name: str, content: bytes, check: Check) -> Checked:
    from somactl.core import invariants
    from somactl.core.matrix_file import parse_matrix_file
    from somactl.core.verification import check_envelope

    try:
        parsed = parse_matrix_file(content, name)
        if parsed.envelope is not None and parsed.header is not None:
            verdict = check_envelope(
                parsed.envelope, parsed.header, check.tolerances, method=check.method, spectrum=check.spectrum
            )
        else:
            verdict = invariants.check(
                parsed.array, check.tolerances, method=check.method, spectrum=check.spectrum
            )
    except InputRejected as exc:
        return Checked(source=name, outcome="rejected", error=exc.message)
    except SomactlError as exc:
        return Checked(source=name, outcome="unreadable", error=exc.message)
    if not verdict.square:
        factor = "; a factor F is committed with --layout factor" if _is_tall(parsed.array) else ""
        return Checked(source=name, outcome="rejected", error="; ".join(verdict.reasons) + factor)
    return judged(name, verdict, check, digest=parsed.header.content if parsed.header else None)


def _is_tall(array: np.ndarray) -> bool:
    rows, columns = array.shape
    return bool(rows > columns)
