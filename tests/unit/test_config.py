"""Where a setting comes from, and which store the service's own variables name."""

from __future__ import annotations

import pytest

from somactl.config import DEFAULT_STORE, Settings, load
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
