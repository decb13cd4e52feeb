"""Settings: flag > environment > file > default. The only module that reads `os.environ`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from somactl.core.names import validate_namespace
from somactl.core.verdict import Tolerances
from somactl.errors import ConfigurationError, InvalidName, SecretExposed, SomactlError, UsageError

DEFAULT_STORE = "sqlite:///somactl.db"
OUTPUTS = ("table", "json", "ndjson")
Output = Literal["table", "json", "ndjson"]

# name -> (environment variable, default). One table, so that the docs and the file reader cannot differ.
SETTINGS: dict[str, tuple[str, str]] = {
    "store": ("SOMACTL_STORE", DEFAULT_STORE),
    "cache": ("SOMACTL_CACHE", ""),
    "namespace": ("SOMACTL_NAMESPACE", "default"),
    "output": ("SOMACTL_OUTPUT", "table"),
    "psd_tolerance": ("SOMACTL_PSD_TOLERANCE", "1e-8"),
    "trace_tolerance": ("SOMACTL_TRACE_TOLERANCE", "1e-8"),
    "hermitian_tolerance": ("SOMACTL_HERMITIAN_TOLERANCE", "1e-8"),
    "cache_ttl": ("SFM_RHO_CACHE_TTL", "300"),
    "read_timeout_ms": ("SFM_RHO_READ_TIMEOUT_MS", "20"),
    "retry_seconds": ("SOMACTL_RETRY_SECONDS", "5"),
}
# Where no store is named, the service's own variables name it: POSTGRES_URL the store, with REDIS_URL as
# its cache; REDIS_URL alone the store.
_SERVICE_STORE, _SERVICE_REDIS = "POSTGRES_URL", "REDIS_URL"


_VISIBLE = ("--", "SOURCE")
"""What stands on the command line begins so where an error names its origin."""
_BELOW_ONE = math.nextafter(1.0, 0.0)


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


def load(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `flags` (None: not given), the environment and the file `SOMACTL_CONFIG` names.

    Raises ConfigurationError, which names the place the bad value came from; SecretExposed for a password
    in a URL given by flag, where every process of the machine could read it.
    """
    environ = os.environ if environ is None else environ
    file = _read_file(flags.get("config") or environ.get("SOMACTL_CONFIG"))
    values: dict[str, tuple[str, str]] = {}
    for name, (variable, default) in SETTINGS.items():
        flag = "--" + name.replace("_", "-")
        if flags.get(name) is not None:
            values[name] = (str(flags[name]), flag)
        elif environ.get(variable):
            values[name] = (environ[variable], variable)
        elif name in file:
            values[name] = (file[name], f"{name} in the configuration file")
        else:
            values[name] = (default, "the default")
    values |= _service_urls(values, environ)
    return Settings(
        store=_store_url(*values["store"]),
        cache=_cache_url(*values["cache"]),
        namespace=_namespace(*values["namespace"]),
        output=_output(*values["output"]),
        tolerances=Tolerances(
            psd=_tolerance(*values["psd_tolerance"]),
            trace=_tolerance(*values["trace_tolerance"]),
            hermitian=_tolerance(*values["hermitian_tolerance"]),
        ),
        color=not environ.get("NO_COLOR"),
        cache_ttl=_number(*values["cache_ttl"], 1.0, 86_400.0),
        read_timeout=_number(*values["read_timeout_ms"], 1.0, 60_000.0) / 1000.0,
        retry_seconds=_number(*values["retry_seconds"], 0.0, 3600.0),
    )


def source_url(word: str, environ: Mapping[str, str] | None = None) -> str:
    """The URL of a source that the command line names, by itself or as `env:NAME`.

    Raises SecretExposed for a URL with a password, and ConfigurationError where no such variable is set.
    """
    environ = os.environ if environ is None else environ
    scheme, _, name = word.partition(":")
    if scheme != "env":
        return _store_url(word, "SOURCE", "put the URL into a variable, and write env:VARIABLE in its place")
    if not environ.get(name):
        raise ConfigurationError(f"the environment variable {name!r} is to name the source, and is not set")
    return _store_url(environ[name], name)


def output_from_environment() -> str:
    """The output mode an error takes that comes before the settings are known; not yet validated."""
    variable, default = SETTINGS["output"]
    return os.environ.get(variable) or default


def _wrong(origin: str, message: str, hint: str | None = None) -> SomactlError:
    """A bad flag is wrong usage (2); a bad environment or file is a configuration to mend (10)."""
    error = UsageError if origin.startswith(_VISIBLE) else ConfigurationError
    return error(f"{origin}: {message}", hint=hint)


def _read_file(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    import tomllib

    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"configuration file {path}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"configuration file {path} is not TOML: {exc}") from None
    unknown = sorted(set(table) - set(SETTINGS))
    if unknown:
        raise ConfigurationError(
            f"configuration file {path}: unknown setting {unknown[0]!r}",
            hint=f"known settings: {', '.join(SETTINGS)}",
        )
    wrong = [name for name, value in table.items() if isinstance(value, bool | dict | list)]
    if wrong:
        raise ConfigurationError(f"configuration file {path}: {wrong[0]} is neither text nor a number")
    return {name: str(value) for name, value in table.items()}


def _service_urls(
    values: Mapping[str, tuple[str, str]], environ: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Store and cache from the service's own variables, where nobody named a store."""
    if values["store"][1] != "the default":
        return {}
    named = {name: (environ[name], name) for name in (_SERVICE_STORE, _SERVICE_REDIS) if environ.get(name)}
    if _SERVICE_STORE not in named:
        return {"store": named[_SERVICE_REDIS]} if named else {}
    urls = {"store": named[_SERVICE_STORE]}
    if _SERVICE_REDIS in named and not values["cache"][0]:
        urls["cache"] = named[_SERVICE_REDIS]
    return urls


def _cache_url(value: str, origin: str) -> str:
    return value and _store_url(value, origin)


_ELSEWHERE = "put the URL into SOMACTL_STORE or SOMACTL_CACHE, or into a configuration file"


def _store_url(value: str, origin: str, elsewhere: str = _ELSEWHERE) -> str:
    try:
        parts = urlsplit(value)
        has_password = parts.password is not None or any(
            name.endswith("password") for name, _ in parse_qsl(parts.query)
        )
    except ValueError as exc:  # the value itself may hold a password
        raise _wrong(origin, f"this is not a URL: {exc}") from None
    if not parts.scheme:
        shown = "this" if "@" in value else repr(value)
        raise _wrong(origin, f"{shown} is not a URL", "a store is named like sqlite:///path/to/somactl.db")
    if has_password and origin.startswith(_VISIBLE):
        raise SecretExposed(
            f"{origin}: the URL holds a password, and command lines are visible to every process",
            hint=elsewhere,
        )
    return value


def _namespace(value: str, origin: str) -> str:
    try:
        return validate_namespace(value)
    except InvalidName as exc:
        raise _wrong(origin, exc.message, exc.hint) from None


def _output(value: str, origin: str) -> Output:
    if value not in OUTPUTS:
        raise _wrong(origin, f"{value!r} is none of {', '.join(OUTPUTS)}")
    return cast(Output, value)


def _tolerance(value: str, origin: str) -> float:
    return _number(value, origin, 1e-100, _BELOW_ONE)


def _number(value: str, origin: str, least: float, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:  # false for NaN too
        raise _wrong(origin, f"{value!r} is not a number from {least:g} to {most:g}")
    return number
