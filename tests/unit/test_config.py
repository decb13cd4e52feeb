"""Where a setting comes from, and which store the service's own variables name."""

from __future__ import annotations

from pathlib import Path

import pytest

from somactl.config import DEFAULT_STORE, Settings, examine, load
from somactl.errors import ConfigurationError, SecretExposed, UsageError

PG, REDIS = "postgresql://db/soma", "redis://cache:6379/0"


def stores(environ: dict[str, str], **flags: str) -> tuple[str, str]:
    settings = load(flags, environ)
    return settings.store, settings.cache


def test_the_defaults_are_those_of_the_class() -> None:
    assert load({}, {}) == Settings()


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({}, {}, (DEFAULT_STORE, "")),
        ({"POSTGRES_URL": PG}, {}, (PG, "")),
        ({"REDIS_URL": REDIS}, {}, (REDIS, "")),
        ({"POSTGRES_URL": PG, "REDIS_URL": REDIS}, {}, (PG, REDIS)),
        ({"POSTGRES_URL": PG, "REDIS_URL": REDIS, "SOMACTL_CACHE": "redis://b"}, {}, (PG, "redis://b")),
        ({"POSTGRES_URL": PG, "REDIS_URL": REDIS, "SOMACTL_STORE": "sqlite:///a"}, {}, ("sqlite:///a", "")),
        ({"POSTGRES_URL": PG, "REDIS_URL": REDIS}, {"store": "sqlite:///a"}, ("sqlite:///a", "")),
        ({"SOMACTL_STORE": PG, "SOMACTL_CACHE": REDIS}, {}, (PG, REDIS)),
        ({"SOMACTL_STORE": PG, "SOMACTL_CACHE": REDIS}, {"cache": "redis://b"}, (PG, "redis://b")),
    ],
)
def test_which_store_and_cache(
    environ: dict[str, str], flags: dict[str, str], expected: tuple[str, str]
) -> None:
    assert stores(environ, **flags) == expected


def test_the_service_s_names_set_the_cache() -> None:
    settings = load({}, {"SFM_RHO_CACHE_TTL": "12.5", "SFM_RHO_READ_TIMEOUT_MS": "35"})
    assert (settings.cache_ttl, settings.read_timeout) == (12.5, 0.035)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SFM_RHO_CACHE_TTL", "0"),
        ("SFM_RHO_CACHE_TTL", "forever"),
        ("SFM_RHO_CACHE_TTL", "nan"),
        ("SFM_RHO_READ_TIMEOUT_MS", "-1"),
        ("SOMACTL_RETRY_SECONDS", "inf"),
        ("SOMACTL_PSD_TOLERANCE", "1"),
        ("SOMACTL_STORE", "nothing"),
        ("SOMACTL_CACHE", "nothing"),
        ("REDIS_URL", "redis://[broken"),
    ],
)
def test_a_bad_value_is_refused_naming_its_place(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        load({}, {variable: value})


def test_a_bad_flag_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--psd-tolerance"):
        load({"psd_tolerance": 2.0}, {})


@pytest.mark.parametrize("flag", ["store", "cache"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(flag: str) -> None:
    with pytest.raises(SecretExposed) as caught:
        load({flag: "redis://user:hunter2@host/0"}, {})
    assert "hunter2" not in caught.value.message + (caught.value.hint or "")
    assert load({}, {f"SOMACTL_{flag.upper()}": "redis://user:hunter2@host/0"})


def test_every_setting_tells_where_it_comes_from_and_what_it_beat(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('namespace = "file"\ncache_ttl = 9\n')
    environ = {"SOMACTL_NAMESPACE": "variable", "POSTGRES_URL": PG, "REDIS_URL": REDIS, "NO_COLOR": "1"}
    found = examine({"namespace": "flag", "config": str(file)}, environ)
    told = {name: (r.shown, r.origin.kind, r.origin.place) for name, r in found.resolved.items()}
    assert told["namespace"] == ("flag", "flag", "--namespace")
    assert found.resolved["namespace"].overridden == ("SOMACTL_NAMESPACE", f"namespace in {file}")
    assert told["store"] == (PG, "environment", "POSTGRES_URL")
    assert told["cache"] == (REDIS, "environment", "REDIS_URL")
    assert told["cache_ttl"] == ("9", "file", f"cache_ttl in {file}")
    assert told["output"] == ("table", "default", "the default")
    assert found.color is not None
    assert not found.errors


def test_what_is_broken_is_named_and_the_rest_is_there() -> None:
    found = examine({"store": "redis://u:pw@h"}, {"SOMACTL_CACHE": "redis:pw@h", "SOMACTL_NAMESPACE": "n"})
    assert [type(error) for error in found.errors] == [SecretExposed, ConfigurationError]
    assert (found.settings.store, found.settings.namespace) == (DEFAULT_STORE, "n")
    assert found.resolved["store"].shown is None
    assert "pw" not in repr(found)


def test_an_empty_cache_on_the_command_line_is_none() -> None:
    assert stores({"POSTGRES_URL": PG, "REDIS_URL": REDIS}, cache="") == (PG, "")


def test_the_service_s_variables_do_not_beat_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('store = "sqlite:///f.db"\n')
    environ = {"POSTGRES_URL": PG, "REDIS_URL": REDIS, "SOMACTL_CONFIG": str(tmp_path / "c.toml")}
    assert stores(environ) == ("sqlite:///f.db", "")
    assert load({}, {"SOMACTL_CONFIG": ""}) == Settings()
