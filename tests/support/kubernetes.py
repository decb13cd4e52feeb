"""Manifests, held against the API of the oldest Kubernetes that the examples admit.

The package `lightkube-models` holds that API as dataclasses, made from the published OpenAPI description.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

_MODULES = {
    "apps/v1": "apps_v1",
    "batch/v1": "batch_v1",
    "networking.k8s.io/v1": "networking_v1",
    "policy/v1": "policy_v1",
    "v1": "core_v1",
}
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGT]i?|Ki)?\Z")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")


def problems(manifest: dict[str, Any]) -> list[str]:
    """What the API server would refuse: fields that are unknown, missing or of another type."""
    model = getattr(_models(_MODULES[manifest["apiVersion"]]), manifest["kind"])
    found = list(_of_object(manifest, model, manifest["kind"]))
    metadata = manifest.get("metadata", {})
    if not _NAME.match(metadata.get("name") or metadata.get("generateName", "").rstrip("-")):
        found.append("metadata.name is no name")
    return found


def _models(name: str) -> Any:
    """The models without the client that they were made for, of which they need three names."""
    if "lightkube.core.schema" not in sys.modules:
        core, schema = types.ModuleType("lightkube.core"), types.ModuleType("lightkube.core.schema")
        vars(schema).update(
            DictMixin=type("DictMixin", (), {}), dataclass=dataclasses.dataclass, field=dataclasses.field
        )
        sys.modules |= {"lightkube.core": core, "lightkube.core.schema": schema}
    return import_module(f"lightkube.models.{name}")


def _of_object(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is {value!r}, no object"
        return
    hints = typing.get_type_hints(model)
    fields = {each.metadata.get("json", each.name): each for each in dataclasses.fields(model)}
    fields = {name.removesuffix("_"): each for name, each in fields.items()}  # `from_` is `from`
    for name in value.keys() - fields.keys():
        yield f"{path} has no field {name}"
    for name, each in fields.items():
        if name in value:
            yield from _of_type(value[name], hints[each.name], f"{path}.{name}")
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            yield f"{path} lacks {name}"


def _of_type(value: Any, hint: Any, path: str) -> Iterator[str]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:
        kinds = [part for part in parts if part is not type(None)]
        if len(kinds) == 1:
            yield from _of_type(value, kinds[0], path)
        elif type(value) not in kinds:
            yield f"{path} is {value!r}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path} is {value!r}, no list"
        else:
            for number, each in enumerate(value):
                yield from _of_type(each, parts[0], f"{path}[{number}]")
    elif origin is dict or hint is dict:
        yield from _of_mapping(value, parts, path)
    elif dataclasses.is_dataclass(hint):
        yield from _of_object(value, hint, path)
    elif hint is not Any and type(value) is not hint:
        yield f"{path} is {value!r}, no {getattr(hint, '__name__', hint)}"


def _of_mapping(value: Any, parts: tuple[Any, ...], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is {value!r}, no object"
        return
    for name, each in value.items():
        if path.endswith((".requests", ".limits")):
            if not _QUANTITY.match(str(each)):
                yield f"{path}.{name} is {each!r}, no quantity"
        elif parts:
            yield from _of_type(each, parts[1], f"{path}.{name}")
