"""Settings: flag > environment > file > default. The only module that reads `os.environ`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

from somactl.address import Use, notation, parse, public, refuse_cache
from somactl.config_file import read_file
from somactl.core.names import validate_namespace
from somactl.core.verdict import TOLERATED, Invariant, Tolerances
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
DARK_MODE, AUDIT_RUN = "SFM_DARK_MODE", "SOMACTL_AUDIT_RUN"
COMPLETION_INDEX, COMPLETION_COUNT = "JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT"


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


_ON, _OFF = ("1", "true", "on", "yes"), ("0", "false", "off", "no")


def _switch(value: str) -> bool:
    word = value.strip().lower()
    if word not in (*_ON, *_OFF):
        raise ConfigurationError(f"this is none of {', '.join((*_ON, *_OFF))}")
    return word in _ON


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


def _tolerance(invariant: Invariant) -> Setting:
    variable, flag = f"SOMACTL_{invariant.name.upper()}_TOLERANCE", f"--{invariant.name}-tolerance"
    default = f"{invariant.tolerance:g}".replace("e-0", "e-")
    return Setting(variable, default, "1", invariant.effect, _number(1e-100, _BELOW_ONE), flag=flag)


TOLERANCES = {f"{each.name}_tolerance": _tolerance(each) for each in TOLERATED}
"""The settings of the invariants' tolerances, which the commands that check matrices take as flags."""


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
    **TOLERANCES,
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
    "dark_mode": Setting(
        DARK_MODE,
        "off",
        "on off",
        "whether invariants are measured and refuse nothing (docs/DARK_MODE.md)",
        _switch,
    ),
}
"""One table, which `load`, the file's reader, `somactl config` and docs/CONFIGURATION.md all follow."""
PUSH_GATEWAY = "SOMACTL_PUSH_GATEWAY"
PUSH_VARIABLES = {
    PUSH_GATEWAY: ("--gateway", "the Pushgateway that metrics are pushed to"),
    "SOMACTL_PUSH_USER": ("", "the user there, for basic authentication"),
    "SOMACTL_PUSH_PASSWORD_FILE": ("", "the file that holds this user's password"),
    "SOMACTL_PUSH_CA": ("", "the authorities whose certificates are trusted there, PEM; else the system's"),
    "SOMACTL_PUSH_CERT": ("", "the client's own certificate, PEM"),
    "SOMACTL_PUSH_KEY": ("", "its key, PEM, where that stands in another file"),
}
"""How the gateway is reached: read where metrics are pushed, so that a mistake stops no other command."""
VARIABLES = {
    SERVICE_STORE: ("", "the store, where nothing else names one"),
    SERVICE_REDIS: ("", "the cache of `POSTGRES_URL`; without that the store, where nothing else names one"),
    CONFIG_VARIABLE: ("--config", "the configuration file"),
    COLOR_VARIABLE: ("", "no colours on a terminal, whatever its value"),
    COMPLETION_INDEX: ("", "of a pod of a Kubernetes Job, from 0: which shard of an audit is `auto`"),
    COMPLETION_COUNT: ("", "how many such pods the Job has: of how many shards"),
    AUDIT_RUN: ("", "what all shards of one audit have in common: the Job's name; else it is the date"),
    **PUSH_VARIABLES,
}
"""What the environment alone says, or it and a flag: variable -> flag and effect."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a command needs to know about its surroundings.

    cache is a Redis URL, "" for none. cache_ttl (seconds) bounds the age of what a cache may serve,
    read_timeout (seconds) how long a read waits for it; retry_seconds how long a call that may be tried
    again is tried again, 0 for never. dark is dark mode: invariants are measured and refuse nothing.
    """

    store: str = field(default=DEFAULT_STORE, repr=False)
    cache: str = field(default="", repr=False)
    namespace: str = "default"
    output: Output = "table"
    tolerances: Tolerances = field(default_factory=Tolerances)
    color: bool = True
    cache_ttl: float = 300.0
    read_timeout: float = 0.020
    retry_seconds: float = 5.0
    dark: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: the kind of place, and the place itself as an error names it."""

    kind: Literal["flag", "environment", "file", "default"]
    place: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """One setting as it was found. `value` is None, and `error` says why, where it cannot be used.

    overridden  the places that set it too, in vain
    """

    name: str
    origin: Origin
    overridden: tuple[str, ...]
    text: str = field(repr=False)
    value: Any = field(repr=False)
    error: SomactlError | None

    @property
    def shown(self) -> str | None:
        """The text without secrets; None where it was not understood, so that no part of it is shown."""
        return SETTINGS[self.name].shown(self.text) if self.error is None else None


@dataclass(frozen=True, slots=True)
class Configuration:
    """All settings as they were found, and the file that was named, if one was, and what is wrong."""

    resolved: Mapping[str, Resolved]
    color: Origin | None
    file: str | None = None
    file_origin: Origin | None = None
    file_error: SomactlError | None = None

    @property
    def errors(self) -> list[SomactlError]:
        found = [self.file_error, *(each.error for each in self.resolved.values())]
        return [error for error in found if error is not None]

    def require(self, *, offline: bool) -> None:
        """Raise the first error; `offline`: only that of an `--output`, in which there can be no answer."""
        output = self.resolved["output"]
        by_flag = [output.error] if output.error is not None and output.origin.kind == "flag" else []
        for error in by_flag if offline else self.errors:
            raise error

    def require_of(self, names: Collection[str]) -> None:
        """Raise the first error among those of the settings `names`, and of the file that may hold them."""
        for error in [self.file_error, *(self.resolved[name].error for name in SETTINGS if name in names)]:
            if error is not None:
                raise error

    @property
    def settings(self) -> Settings:
        """The settings; the default of one that cannot be used."""
        return _settings(self.resolved, color=self.color is None)


def load(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `flags` (None: not given), the environment and the file `SOMACTL_CONFIG` names.

    Raises ConfigurationError, which names the place the bad value came from; SecretExposed for a password
    in a URL given by flag, where every process of the machine could read it.
    """
    found = examine(flags, environ)
    found.require(offline=False)
    return found.settings


def examine(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Configuration:
    """Each setting, where it comes from, and what is wrong with it. Raises nothing."""
    environ = os.environ if environ is None else environ
    color = Origin("environment", COLOR_VARIABLE) if environ.get(COLOR_VARIABLE) else None
    path, origin = flags.get("config"), Origin("flag", "--config")
    if not path:
        path, origin = environ.get(CONFIG_VARIABLE), Origin("environment", CONFIG_VARIABLE)
    if not path:
        return Configuration(_resolve(flags, environ, {}, ""), color)
    table: dict[str, str] = {}
    error = None
    try:
        table = read_file(path, SETTINGS, [name for name, each in SETTINGS.items() if each.read is _switch])
    except SomactlError as exc:
        error = exc
    return Configuration(_resolve(flags, environ, table, path), color, path, origin, error)


def _resolve(
    flags: Mapping[str, Any], environ: Mapping[str, str], file: Mapping[str, str], path: str
) -> dict[str, Resolved]:
    resolved: dict[str, Resolved] = {}
    for name, setting in SETTINGS.items():
        given: list[tuple[str, Origin]] = []
        if flags.get(name) is not None:
            given.append((str(flags[name]), Origin("flag", setting.flag)))
        if environ.get(setting.variable):
            given.append((environ[setting.variable], Origin("environment", setting.variable)))
        if name in file:
            given.append((file[name], Origin("file", f"{name} in {path}")))
        given += _service_urls(name, resolved, environ)
        (text, origin), *beaten = [*given, (setting.default, Origin("default", "the default"))]
        overridden = tuple(other.place for _, other in beaten[:-1])
        resolved[name] = _resolved(name, text, origin, overridden)
    return resolved | {"cache": _beside(resolved["cache"], resolved["store"])}


def _beside(cache: Resolved, store: Resolved) -> Resolved:
    """The cache, which cannot stand before every store."""
    try:
        if cache.value and store.value:
            refuse_cache(store.value)
    except ConfigurationError as exc:
        error = ConfigurationError(f"{cache.origin.place}: {exc.message}", hint=exc.hint)
        return replace(cache, value=None, error=error)
    return cache


def _service_urls(
    name: str, resolved: Mapping[str, Resolved], environ: Mapping[str, str]
) -> list[tuple[str, Origin]]:
    """Store and cache from the service's own variables, which count where nothing else names a store."""
    names: tuple[str, ...] = (SERVICE_STORE, SERVICE_REDIS) if name == "store" else ()
    if name == "cache" and resolved["store"].origin.place == SERVICE_STORE:
        names = (SERVICE_REDIS,)
    return [(environ[each], Origin("environment", each)) for each in names if environ.get(each)][:1]


def _settings(resolved: Mapping[str, Resolved], *, color: bool) -> Settings:
    def value(name: str) -> Any:
        each = resolved[name]
        return SETTINGS[name].read(SETTINGS[name].default) if each.error is not None else each.value

    return Settings(
        store=value("store"),
        cache=value("cache"),
        namespace=value("namespace"),
        output=value("output"),
        tolerances=Tolerances(**{each.name: value(f"{each.name}_tolerance") for each in TOLERATED}),
        color=color,
        cache_ttl=value("cache_ttl"),
        read_timeout=value("read_timeout_ms") / 1000.0,
        retry_seconds=value("retry_seconds"),
        dark=value("dark_mode"),
    )


def source_url(word: str, environ: Mapping[str, str] | None = None) -> str:
    """The URL of a source that the command line names, by itself or as `env:NAME`.

    Raises SecretExposed for a URL with a password, and ConfigurationError where no such variable is set.
    """
    text, from_environment = named(word, "the source", environ)
    if not from_environment:
        return _read(text, Origin("flag", "SOURCE"), _address("source"), use="source")
    return _read(text, Origin("environment", word.partition(":")[2]), _address("source"))


def named(word: str, what: str, environ: Mapping[str, str] | None = None) -> tuple[str, bool]:
    """What `env:NAME` stands for, and True; any other word stands for itself. `what` it names, in messages.

    Raises ConfigurationError where no such variable is set.
    """
    environ = os.environ if environ is None else environ
    scheme, _, name = word.partition(":")
    if scheme != "env":
        return word, False
    if not environ.get(name):
        shown = f"the environment variable {name!r}" if name.replace("_", "").isalnum() else "the variable"
        raise ConfigurationError(f"{shown} is to name {what}, and is not set", hint="export it first")
    return environ[name], True


def named_address(word: str, what: str, use: Use) -> str:
    """The address of a store or cache that a file names, by itself or as `env:NAME`.

    Raises ConfigurationError, and SecretExposed for one with a password that stands in the file itself.
    """
    text, from_environment = named(word, what)
    try:
        address = parse(text, use)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{what}: {exc.message}", hint=exc.hint) from None
    if address.has_secret and not from_environment:
        raise SecretExposed(f"{what}: the URL holds a password", hint="write env:NAME, and export NAME")
    return text


def push_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """variable -> what it says, of those about pushing that are set."""
    environ = os.environ if environ is None else environ
    return {name: environ[name] for name in PUSH_VARIABLES if environ.get(name)}


def address_texts() -> list[str]:
    """What the environment says where an address belongs, for messages that must not repeat it."""
    names = ("SOMACTL_STORE", "SOMACTL_CACHE", SERVICE_STORE, SERVICE_REDIS)
    return [os.environ[name] for name in names if os.environ.get(name)]


def completion() -> tuple[str | None, str | None]:
    """The index of a Kubernetes Job's pod, counted from 0, and the Job's completions, as they were set."""
    return os.environ.get(COMPLETION_INDEX), os.environ.get(COMPLETION_COUNT)


def audit_run() -> str | None:
    """What all shards of one run have in common, where the environment says it."""
    return os.environ.get(AUDIT_RUN) or None


def output_from_environment() -> str:
    """The output mode an error takes that comes before the settings are known; not yet validated."""
    setting = SETTINGS["output"]
    return os.environ.get(setting.variable) or setting.default


def _resolved(name: str, text: str, origin: Origin, overridden: tuple[str, ...]) -> Resolved:
    use: Use | None = "store" if name == "store" else "cache" if name == "cache" and text else None
    try:
        value = _read(text, origin, SETTINGS[name].read, use=use)
    except SomactlError as exc:
        return Resolved(name, origin, overridden, text, None, exc)
    return Resolved(name, origin, overridden, text, value, None)


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


def inherited() -> MutableMapping[str, str]:
    """What in the environment is no setting: what systemd hands over, and what the prover's process needs."""
    return os.environ
