"""Wrappers pass on the whole contract, whatever it comes to hold; stores inherit the checks of their face."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from somactl.errors import ReadOnlyStore
from somactl.store.base import BaseStore
from somactl.store.contract import Store
from somactl.store.metered import Metered
from somactl.store.postgres import PostgresStore
from somactl.store.redis import RedisStore
from somactl.store.sqlite import SqliteStore
from somactl.store.wrapper import ReadOnly, Retrying, StoreWrapper

METHODS = {
    name: method
    for name, method in inspect.getmembers_static(Store, inspect.isfunction)
    if not name.startswith("_")
}
READS = {
    *("durability", "diagnose", "namespaces", "head", "summary", "clock", "read", "read_many", "stat_many"),
    *("scan", "history", "log", "events", "publishing", "read_notes", "scan_notes"),
    "close",
}
"""What writes nothing, however it is called. A new method of the contract stands here, or `ReadOnly` must
refuse it."""


class Recorder:
    """A store that writes down each call, and answers with the method's name."""

    name, namespace, degradations = "recorder", "default", ()

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return partial(self._pages if name.startswith("scan") else self._answer, name)

    async def _answer(self, name: str, *arguments: Any, **options: Any) -> str:
        self._note(name, *arguments, **options)
        return name

    async def _pages(self, name: str, *arguments: Any, **options: Any) -> AsyncIterator[list[Any]]:
        self._note(name, *arguments, **options)
        yield [SimpleNamespace(name=name, key=name)]

    def _note(self, name: str, *arguments: Any, **options: Any) -> None:
        bound = inspect.signature(METHODS[name]).bind(self, *arguments, **options)
        bound.apply_defaults()
        self.calls.append((name, {k: v for k, v in bound.arguments.items() if k != "self"}))


def every_argument(name: str) -> dict[str, Any]:
    """A value for each parameter of a method that is not its default, nor another parameter's."""
    parameters = list(inspect.signature(METHODS[name]).parameters)[1:]
    return {parameter: f"{name}.{parameter}" for parameter in parameters}


async def called(store: Any, name: str, arguments: dict[str, Any]) -> Any:
    answer = getattr(store, name)(**arguments)
    if not hasattr(answer, "__aiter__"):
        return await answer
    ((entry,),) = [page async for page in answer]
    return entry.name


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "wrap", [StoreWrapper, partial(Retrying, seconds=0.0), partial(Metered, observer=print)]
)
async def test_a_wrapper_passes_on_every_method_with_every_argument(wrap: Any, name: str) -> None:
    inner, arguments = Recorder(), every_argument(name)
    answer = await called(wrap(inner), name, arguments)
    assert inner.calls == [(name, arguments)]
    assert answer == (None if name == "close" else name)


@pytest.mark.parametrize("name", METHODS)
async def test_what_is_read_only_refuses_whatever_may_write(name: str) -> None:
    inner, arguments = Recorder(), every_argument(name)
    if name in READS:
        await called(ReadOnly(inner), name, arguments)  # type: ignore[arg-type]
        assert inner.calls == [(name, arguments)]
    else:
        arguments.pop("dry_run", None)  # which is what makes a write none
        with pytest.raises(ReadOnlyStore):
            await called(ReadOnly(inner), name, arguments)  # type: ignore[arg-type]
        assert inner.calls == []


@pytest.mark.parametrize("face", [BaseStore, StoreWrapper])
def test_a_face_has_every_method_as_the_contract_has_it(face: type) -> None:
    for name, method in METHODS.items():
        assert inspect.signature(getattr(face, name)) == inspect.signature(method), name


@pytest.mark.parametrize("store", [SqliteStore, RedisStore, PostgresStore])
def test_a_store_inherits_what_checks_its_arguments(store: type) -> None:
    """It answers with `_read` and the like; `read` itself is the face's, decorated at most."""
    for name in METHODS:
        if name in vars(BaseStore) and not getattr(vars(BaseStore)[name], "__isabstractmethod__", False):
            assert inspect.unwrap(getattr(store, name)) is vars(BaseStore)[name], name
