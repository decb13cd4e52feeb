"""Settings: flag > environment > file > default. The only module that reads `os.environ`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from somactl.address import Use, parse, public
from somactl.address.foreign import notation
from somactl.config_file import read_file
from somactl.core.names import validate_namespace
from somactl.core.verdict import Tolerances
from somactl.errors import ConfigurationError, InvalidName, SecretExposed, SomactlError, UsageError

DEFAULT_STORE = "sqlite:///somactl.db"
OUTPUTS = ("table", "json", "ndjson")
Output = Literal["table", "json", "ndjson"]
T = TypeVar("T")

_BELOW_ONE = math.nextafter(1.0, 0.0)
CONFIG_VARIABLE, COLOR_VARIABLE = "SOMACTL_CONFIG", "NO_COLOR"
# Where no store is named, the service's own variables name it: POSTGRES_URL the store, with REDIS_URL as
# its cache; REDIS_URL alone the store.
SERVICE_STORE, SERVICE_REDIS = "POSTGRES_URL", "REDIS_URL"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings; its name is the key in the configuration file.

    read   makes the value of a text; raises a SomactlError that says what is wrong, without its place
    shown  what may be told of the text, once it was read
    flag   empty where no flag sets it
    """

    variable: str
    default: str
    unit: str
    effect: str
    read: Callable[[str], Any]
    shown: Callable[[str], str] = str
    flag: str = ""


def _address(use: Use) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value or use != "cache":
            parse(value, use)
        return value

    return read


def _namespace(value: str) -> str:
    try:
        return validate_namespace(value)
    except InvalidName as exc:
        hidden = exc.message.replace(f" {value!r}", "")  # a URL, perhaps, that ran into the wrong variable
        raise ConfigurationError(hidden, hint=exc.hint) from None


def _output(value: str) -> Output:
    if value not in OUTPUTS:
        raise ConfigurationError(f"this is none of {', '.join(OUTPUTS)}")
    return cast(Output, value)


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # false for NaN too
            shown = "this" if math.isnan(number) else repr(value)
            raise ConfigurationError(f"{shown} is not a number from {least:g} to {most:g}")
        return number

    return read


def _tolerance(name: str, what: str) -> Setting:
    variable, flag = f"SOMACTL_{name.upper()}_TOLERANCE", f"--{name}-tolerance"
    return Setting(variable, "1e-8", "1", what, _number(1e-100, _BELOW_ONE), flag=flag)


SETTINGS: dict[str, Setting] = {
    "store": Setting(
        "SOMACTL_STORE", DEFAULT_STORE, "URL", "where the matrices live", _address("store"), public, "--store"
    ),
    "cache": Setting(
        "SOMACTL_CACHE",
        "",
        "URL",
        "a Redis that is asked before the store; empty for none",
        _address("cache"),
        lambda url: public(url) if url else "",
        "--cache",
    ),
    "namespace": Setting(
        "SOMACTL_NAMESPACE", "default", "name", "whose matrices", _namespace, flag="--namespace"
    ),
    "output": Setting(
        "SOMACTL_OUTPUT", "table", " ".join(OUTPUTS), "how to report", _output, flag="--output"
    ),
    "psd_tolerance": _tolerance("psd", "how far below 0 the smallest eigenvalue may be proven to lie"),
    "trace_tolerance": _tolerance("trace", "how far from 1 the trace may be"),
    "hermitian_tolerance": _tolerance("hermitian", "how far an entry may be from its mirror's conjugate"),
    "cache_ttl": Setting(
        "SFM_RHO_CACHE_TTL", "300", "seconds", "the oldest a copy in the cache may be", _number(1.0, 86_400.0)
    ),
    "read_timeout_ms": Setting(
        "SFM_RHO_READ_TIMEOUT_MS",
        "20",
        "milliseconds",
        "how long a read waits for the cache before it asks the store",
        _number(1.0, 60_000.0),
    ),
    "retry_seconds": Setting(
        "SOMACTL_RETRY_SECONDS",
        "5",
        "seconds",
        "how long a call that may be made again is tried again; 0 for never",
        _number(0.0, 3600.0),
    ),
}
"""One table, which `load`, the file's reader, `somactl config` and docs/CONFIGURATION.md all follow."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a command needs to know about its surroundings.

    cache is a Redis URL, "" for none. cache_ttl (seconds) bounds the age of what a cache may serve,
    read_timeout (seconds) how long a read waits for it; retry_seconds how long a call that may be tried
    again is tried again, 0 for never.
    """

    store: str = DEFAULT_STORE
    cache: str = ""
    namespace: str = "default"
    output: Output = "table"
    tolerances: Tolerances = field(default_factory=Tolerances)
    color: bool = True
    cache_ttl: float = 300.0
    read_timeout: float = 0.020
    retry_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: the kind of place, and the place itself as an error names it."""

    kind: Literal["flag", "environment", "file", "default"]
    place: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """One setting as it was found. `value` is None, and `error` says why, where it cannot be used."""

    name: str
    origin: Origin
    text: str = field(repr=False)
    value: Any = field(repr=False)
    error: SomactlError | None

    @property
    def shown(self) -> str | None:
        """The text without secrets; None where it was not understood, so that no part of it is shown."""
        return SETTINGS[self.name].shown(self.text) if self.error is None else None


def load(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `flags` (None: not given), the environment and the file `SOMACTL_CONFIG` names.

    Raises ConfigurationError, which names the place the bad value came from; SecretExposed for a password
    in a URL given by flag, where every process of the machine could read it.
    """
    environ = os.environ if environ is None else environ
    resolved = resolve(flags, environ, read_file(config_path(flags, environ), SETTINGS))
    for each in resolved.values():
        if each.error is not None:
            raise each.error
    return settled(resolved, color=not environ.get(COLOR_VARIABLE))


def config_path(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str | None:
    """The configuration file that was named, if one was."""
    environ = os.environ if environ is None else environ
    return flags.get("config") or environ.get(CONFIG_VARIABLE) or None


def resolve(
    flags: Mapping[str, Any], environ: Mapping[str, str] | None, file: Mapping[str, str]
) -> dict[str, Resolved]:
    """Each setting, where it comes from, and what is wrong with it."""
    environ = os.environ if environ is None else environ
    found: dict[str, tuple[str, Origin]] = {}
    for name, setting in SETTINGS.items():
        if flags.get(name) is not None:
            found[name] = (str(flags[name]), Origin("flag", setting.flag))
        elif environ.get(setting.variable):
            found[name] = (environ[setting.variable], Origin("environment", setting.variable))
        elif name in file:
            found[name] = (file[name], Origin("file", f"{name} in the configuration file"))
        else:
            found[name] = (setting.default, Origin("default", "the default"))
    found |= _service_urls(found, environ)
    return {name: _resolved(name, *found[name]) for name in SETTINGS}


def settled(resolved: Mapping[str, Resolved], *, color: bool) -> Settings:
    """The settings; where one cannot be used, its default."""

    def value(name: str) -> Any:
        each = resolved[name]
        return SETTINGS[name].read(SETTINGS[name].default) if each.error is not None else each.value

    return Settings(
        store=value("store"),
        cache=value("cache"),
        namespace=value("namespace"),
        output=value("output"),
        tolerances=Tolerances(
            psd=value("psd_tolerance"),
            trace=value("trace_tolerance"),
            hermitian=value("hermitian_tolerance"),
        ),
        color=color,
        cache_ttl=value("cache_ttl"),
        read_timeout=value("read_timeout_ms") / 1000.0,
        retry_seconds=value("retry_seconds"),
    )


def load_offline(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """How to print, and nothing else: for a command that explains what is wrong with the settings.

    Only a bad `--output` is refused; a bad one elsewhere is the default's.
    """
    environ = os.environ if environ is None else environ
    if flags.get("output") is not None:
        mode: Output = _read(str(flags["output"]), Origin("flag", "--output"), _output)
    else:
        found = output_from_environment()
        mode = cast(Output, found if found in OUTPUTS else "table")
    return Settings(output=mode, color=not environ.get("NO_COLOR"))


def source_url(word: str, environ: Mapping[str, str] | None = None) -> str:
    """The URL of a source that the command line names, by itself or as `env:NAME`.

    Raises SecretExposed for a URL with a password, and ConfigurationError where no such variable is set.
    """
    environ = os.environ if environ is None else environ
    scheme, _, name = word.partition(":")
    if scheme != "env":
        return _read(word, Origin("flag", "SOURCE"), _address("source"), use="source")
    if not environ.get(name):
        shown = f"the environment variable {name!r}" if name.replace("_", "").isalnum() else "the variable"
        raise ConfigurationError(f"{shown} is to name the source, and is not set", hint="export it first")
    return _read(environ[name], Origin("environment", name), _address("source"))


def output_from_environment() -> str:
    """The output mode an error takes that comes before the settings are known; not yet validated."""
    setting = SETTINGS["output"]
    return os.environ.get(setting.variable) or setting.default


def _service_urls(
    found: Mapping[str, tuple[str, Origin]], environ: Mapping[str, str]
) -> dict[str, tuple[str, Origin]]:
    """Store and cache from the service's own variables, where nothing else names a store."""
    if found["store"][1].kind != "default":
        return {}
    named = {
        name: (environ[name], Origin("environment", name))
        for name in (SERVICE_STORE, SERVICE_REDIS)
        if environ.get(name)
    }
    if SERVICE_STORE not in named:
        return {"store": named[SERVICE_REDIS]} if named else {}
    urls = {"store": named[SERVICE_STORE]}
    if SERVICE_REDIS in named and not found["cache"][0]:
        urls["cache"] = named[SERVICE_REDIS]
    return urls


def _resolved(name: str, text: str, origin: Origin) -> Resolved:
    use: Use | None = "store" if name == "store" else "cache" if name == "cache" and text else None
    try:
        return Resolved(name, origin, text, _read(text, origin, SETTINGS[name].read, use=use), None)
    except SomactlError as exc:
        return Resolved(name, origin, text, None, exc)


_INSTEAD = {
    "store": "put the URL into SOMACTL_STORE or into a configuration file",
    "cache": "put the URL into SOMACTL_CACHE or into a configuration file",
    "source": "put the URL into a variable, and write env:VARIABLE in its place",
}


def _read(text: str, origin: Origin, read: Callable[[str], T], *, use: Use | None = None) -> T:
    """The value of `text`. `use`: it is an address, which is not to hold a secret on the command line."""
    try:
        value = read(text)
    except ConfigurationError as exc:
        # A bad flag is wrong usage (2), but an address that is wrong is a configuration to mend (10).
        usage = origin.kind == "flag" and (use is None or not ("://" in text or notation(text)))
        error = UsageError if usage else ConfigurationError
        raise error(f"{origin.place}: {exc.message}", hint=exc.hint) from None
    if use and origin.kind == "flag" and parse(text, use).has_secret:
        raise SecretExposed(
            f"{origin.place}: the URL holds a password, and command lines are visible to every process",
            hint=_INSTEAD[use],
        )
    return value
