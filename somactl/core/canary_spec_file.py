"""Reads the spec of a canary check, strictly: from YAML, each field by its line, and from flags.

spec = read_spec(text, "canary.yaml", {"criteria.latency.max": "80ms"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping as Mapping_
from typing import Any, Final, NamedTuple

from somactl.core.canary_samples import ARMS, ArmName
from somactl.core.canary_spec import (
    FIELDS,
    SOURCES,
    Arm,
    Criteria,
    Invariants,
    LatencyLimit,
    ShareLimit,
    Spec,
)
from somactl.core.strict_yaml import Listing, Mapping, Node, Scalar, YamlError, parse_yaml
from somactl.errors import ConfigurationError
from somactl.suggestion import again

MAX_BYTES: Final = 1 << 16


class _Given(NamedTuple):
    text: str
    line: int  # 0: a flag


class _File(NamedTuple):
    fields: dict[str, _Given]
    mappings: dict[str, int]  # the lines where they begin


def read_spec(text: str | bytes | None, name: str, flags: Mapping_[str, str] = {}) -> Spec:
    """The spec of the YAML `text` in the file `name`, and of flags: texts by the path of their field.

    A flag goes before the file, and one for an arm's source before all that the file says of that arm.
    Raises ConfigurationError for the first thing that is not as it should be, naming file, line and field.
    """
    file = _File({}, {})
    try:
        if text is not None:
            file = _flat(text)
        given = {path: value for path, value in file.fields.items() if not _is_replaced(path, flags)}
        given |= {_known(path, 0): _Given(value, 0) for path, value in flags.items()}
        return _spec({path: _read(path, value) for path, value in given.items()}, given, file.mappings)
    except YamlError as exc:
        raise _refusal(exc, name, exc.field in flags) from None


def _is_replaced(path: str, flags: Mapping_[str, str]) -> bool:
    return any(path.startswith(f"arms.{arm}.") and f"arms.{arm}.source" in flags for arm in ARMS)


def _refusal(exc: YamlError, name: str, is_flag: bool) -> ConfigurationError:
    place = f"{name}, line {exc.line}" if exc.line else "the flags" if is_flag else name
    message = str(exc) if exc.problem == "missing" or not exc.field else f"`{exc.field}`: {exc}"
    facts = {"line": exc.line, "field": exc.field, "problem": exc.problem}
    return ConfigurationError(
        f"{place}: {message}", hint=exc.hint, next=again(), **{k: v for k, v in facts.items() if v}
    )


def _flat(text: str | bytes) -> _File:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES >> 10} KiB", "size", 0)
    try:
        root = parse_yaml(data.decode(), deepest=4, most=500)
    except UnicodeDecodeError as exc:
        raise YamlError("this is no UTF-8 text", "syntax", data.count(b"\n", 0, exc.start) + 1) from None
    if not isinstance(root, Mapping):
        raise YamlError(
            "this is no mapping", "value", root.line if root else 1, hint="begin with `version: 1`"
        )
    file = _File({}, {})
    _flatten(root, "", file)
    if "version" not in file.fields:
        raise YamlError(
            "`version` is missing", "missing", root.line, field="version", hint="write `version: 1`"
        )
    return file


def _flatten(node: Node, path: str, file: _File) -> None:
    if isinstance(node, Listing):
        raise YamlError("this is a list, and no list is read here", "value", node.line, field=path)
    if isinstance(node, Scalar):
        if not node.is_text and not node.quoted:
            raise YamlError(f"{node.text or 'nothing'} is no value here", "value", node.line, field=path)
        file.fields[_known(path, node.line)] = _Given(node.text, node.line)
        return
    if path and not any(known.startswith(f"{path}.") for known in FIELDS):
        raise YamlError(
            "this is a mapping, and one value is wanted", "value", node.line, field=_known(path, node.line)
        )
    file.mappings[path] = node.line
    for name, part in node.fields.items():
        _flatten(part, f"{path}.{name}" if path else name, file)


def _known(path: str, line: int) -> str:
    """The path, which is that of a field. Raises YamlError, naming those beside it, where it is none."""
    if path in FIELDS:
        return path
    parent = path.rpartition(".")[0]
    inside = f"{parent}." if parent else ""
    beside = {known.removeprefix(inside).partition(".")[0] for known in FIELDS if known.startswith(inside)}
    if any(known.startswith(f"{path}.") for known in FIELDS):
        raise YamlError("this is one value, and a mapping is wanted", "value", line, field=path)
    hint = f"known fields: {', '.join(sorted(beside))}" if beside else None
    raise YamlError("unknown field", "unknown", line, field=path, hint=hint)


def _read(path: str, given: _Given) -> Any:
    field = FIELDS[path]
    try:
        return field.read(given.text)
    except ValueError as exc:
        hint = f"it is {field.what}; for example {field.example}"
        raise YamlError(str(exc), "value", given.line, field=path, hint=hint) from None


def _spec(values: dict[str, Any], given: dict[str, _Given], mappings: dict[str, int]) -> Spec:
    def part(path: str) -> dict[str, Any]:
        return {
            name.removeprefix(f"{path}."): value
            for name, value in values.items()
            if name.startswith(f"{path}.")
        }

    def line(path: str) -> int:
        return mappings.get(path, mappings.get(path.rpartition(".")[0], 0))

    arms: dict[ArmName, Arm] = {arm: _arm(f"arms.{arm}", part(f"arms.{arm}"), given, line) for arm in ARMS}
    criteria: dict[str, Any] = {}
    for name, kind in _CRITERIA.items():
        path = f"criteria.{name}"
        if part(path) or path in mappings:
            criteria[name] = _criterion(path, kind, part(path), line(path))
    if not criteria:
        raise YamlError(
            "`criteria` is missing: nothing would be judged", "missing", line("criteria"), field="criteria"
        )
    spec = Spec(arms=arms, criteria=Criteria(**criteria), **{k: v for k, v in values.items() if k in _TOP})
    if spec.interval > spec.window / 10:
        raise _wrong("interval", "no less than ten looks fit into the window", given)
    if spec.criteria.latency is not None:
        _refuse_two_sorts(arms, line)
    if arms["baseline"] == arms["candidate"] and arms["baseline"].source != "samples":
        message = "both arms are the same: the candidate would be compared with itself"
        raise YamlError(message, "value", line("arms"), field="arms.candidate")
    return spec


_TOP = ("window", "interval", "gap", "confidence")
_CRITERIA: dict[str, Any] = {
    "invariants": Invariants,
    "latency": LatencyLimit,
    "errors": ShareLimit,
    "degraded": ShareLimit,
    "conflicts": ShareLimit,
}


def _wrong(path: str, message: str, given: dict[str, _Given]) -> YamlError:
    return YamlError(message, "value", given[path].line if path in given else 0, field=path)


def _arm(path: str, values: dict[str, Any], given: dict[str, _Given], line: Callable[[str], int]) -> Arm:
    if "source" not in values:
        field = f"{path}.source"
        raise YamlError(
            f"`{field}` is missing", "missing", line(path), field=field, hint=f"one of {', '.join(SOURCES)}"
        )
    source = values["source"]
    for name in values.keys() - {"source", *SOURCES[source]}:
        hint = f"fields of {source}: {', '.join(SOURCES[source])}"
        raise YamlError(
            f"a {source} has no such field",
            "unknown",
            given[f"{path}.{name}"].line,
            field=f"{path}.{name}",
            hint=hint,
        )
    arm = Arm(**values)
    if source == "probe" and (arm.store is None) == (arm.health is None):
        raise YamlError("a probe has a store or a health, one of the two", "missing", line(path), field=path)
    needed = {"prometheus": "url", "samples": "file"}.get(source)
    if needed and needed not in values:
        raise YamlError(f"`{path}.{needed}` is missing", "missing", line(path), field=f"{path}.{needed}")
    return arm


def _criterion(path: str, kind: Any, values: dict[str, Any], line: int) -> Any:
    if kind is ShareLimit and not values:
        raise YamlError(f"`{path}.max_share` is missing", "missing", line, field=f"{path}.max_share")
    if kind is LatencyLimit and not values.keys() & {"max", "margin"}:
        hint = "give it max: 60ms, margin: 20%, or both"
        raise YamlError(f"`{path}` has neither max nor margin", "missing", line, field=path, hint=hint)
    return kind(**values)


def _refuse_two_sorts(arms: Mapping_[ArmName, Arm], line: Callable[[str], int]) -> None:
    sorts = {name: _sort_of(arm) for name, arm in arms.items()}
    for name, sort in sorts.items():
        if sort is None:
            message = "this arm tells no latency, and a criterion is about it"
            raise YamlError(message, "value", line(f"arms.{name}"), field=f"arms.{name}")
    if {"requests", "buckets"} <= set(sorts.values()):
        message = "one arm times requests and the other has buckets: they are not compared"
        raise YamlError(message, "value", line("arms"), field="arms")


def _sort_of(arm: Arm) -> str | None:
    if arm.source == "samples":
        return "either"
    if arm.source == "probe":
        return "requests" if arm.store else None
    return "buckets" if arm.latency else None
