"""Settings: flag > environment > file > default. The only module that reads `os.environ`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from somactl.core.names import validate_namespace
from somactl.core.verdict import Tolerances
from somactl.errors import ConfigurationError, InvalidName, SecretExposed, SomactlError, UsageError

DEFAULT_STORE = "sqlite:///somactl.db"
OUTPUTS = ("table", "json", "ndjson")
Output = Literal["table", "json", "ndjson"]

# name -> (environment variable, default). One table, so that the docs and the file reader cannot differ.
SETTINGS: dict[str, tuple[str, str]] = {
    "store": ("SOMACTL_STORE", DEFAULT_STORE),
    "namespace": ("SOMACTL_NAMESPACE", "default"),
    "output": ("SOMACTL_OUTPUT", "table"),
    "psd_tolerance": ("SOMACTL_PSD_TOLERANCE", "1e-8"),
    "trace_tolerance": ("SOMACTL_TRACE_TOLERANCE", "1e-8"),
    "hermitian_tolerance": ("SOMACTL_HERMITIAN_TOLERANCE", "1e-8"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a command needs to know about its surroundings."""

    store: str = DEFAULT_STORE
    namespace: str = "default"
    output: Output = "table"
    tolerances: Tolerances = field(default_factory=Tolerances)
    color: bool = True


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
    return Settings(
        store=_store_url(*values["store"]),
        namespace=_namespace(*values["namespace"]),
        output=_output(*values["output"]),
        tolerances=Tolerances(
            psd=_tolerance(*values["psd_tolerance"]),
            trace=_tolerance(*values["trace_tolerance"]),
            hermitian=_tolerance(*values["hermitian_tolerance"]),
        ),
        color=not environ.get("NO_COLOR"),
    )


def output_from_environment() -> str:
    """The output mode an error takes that comes before the settings are known; not yet validated."""
    variable, default = SETTINGS["output"]
    return os.environ.get(variable) or default


def _wrong(origin: str, message: str, hint: str | None = None) -> SomactlError:
    """A bad flag is wrong usage (2); a bad environment or file is a configuration to mend (10)."""
    error = UsageError if origin.startswith("--") else ConfigurationError
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


def _store_url(value: str, origin: str) -> str:
    try:
        parts = urlsplit(value)
        has_password = parts.password is not None
    except ValueError as exc:
        raise _wrong(origin, f"{value!r} is not a URL: {exc}") from None
    if not parts.scheme:
        raise _wrong(origin, f"{value!r} is not a URL", "a store is named like sqlite:///path/to/somactl.db")
    if has_password and origin.startswith("--"):
        raise SecretExposed(
            f"{origin}: the URL holds a password, and command lines are visible to every process",
            hint="put the URL into SOMACTL_STORE or a configuration file",
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
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 1e-100 <= number < 1.0:
        raise _wrong(origin, f"{value!r} is not a number from 1e-100 up to 1")
    return number
