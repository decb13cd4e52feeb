"""`open_store()` and `open_server()` take what the command line would take; with a URL, nothing of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import somactl
from somactl.config import load
from somactl.errors import ConfigurationError, SomactlError, UsageError

SECRET = "hunter2-hunter2"
PG, CACHE, OTHER = "postgresql://u@db.example/soma", "redis://cache.example:6379/0", "redis://other.example/1"
TUNED = {"SFM_RHO_CACHE_TTL": "7", "SFM_RHO_READ_TIMEOUT_MS": "35", "SOMACTL_RETRY_SECONDS": "0"}
SERVICE = {"POSTGRES_URL": PG, "REDIS_URL": CACHE}

Variables = dict[str, str]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default database would be made."""
    monkeypatch.chdir(tmp_path)


def surround(monkeypatch: pytest.MonkeyPatch, variables: Variables) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {"SOMACTL_STORE": PG, "SOMACTL_NAMESPACE": "team"},
        {"SOMACTL_STORE": PG, "SOMACTL_CACHE": CACHE, **TUNED},
        {"SOMACTL_STORE": PG, "REDIS_URL": CACHE},  # the service's own count where nothing else names a store
        {**SERVICE, **TUNED},
        {**SERVICE, "SOMACTL_CACHE": OTHER},
        {"REDIS_URL": CACHE},
        {"SOMACTL_STORE": "", "POSTGRES_URL": PG},
        {"SOMACTL_STORE": PG, "SFM_DARK_MODE": "1"},
        {"SOMACTL_CONFIG": "settings.toml"},
        {"SOMACTL_CONFIG": "settings.toml", "SOMACTL_STORE": "sqlite:///mine.db", "SFM_RHO_CACHE_TTL": "9"},
        {},
    ],
    ids=str,
)
async def test_what_the_command_line_would_take(
    variables: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("settings.toml").write_text('store = "sqlite:///filed.db"\nnamespace = "filed"\nretry_seconds = 3\n')
    surround(monkeypatch, variables)
    async with somactl.open_server() as server:
        assert server.settings == load({})
    async with somactl.open_store() as store:
        assert store.namespace == load({}).namespace


async def test_the_service_s_own_variables_put_a_cache_before_postgres(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    surround(monkeypatch, SERVICE | TUNED)
    async with somactl.open_server() as server:
        taken = server.settings
    assert (taken.store, taken.cache) == (PG, CACHE)
    assert (taken.cache_ttl, taken.read_timeout, taken.retry_seconds) == (7.0, 0.035, 0.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cache": None}, {"cache": ""}),
        ({"cache": OTHER}, {"cache": OTHER}),
        ({"retry_seconds": 2.0}, {"retry_seconds": 2.0}),
    ],
    ids=str,
)
async def test_an_argument_wins(
    given: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    surround(monkeypatch, SERVICE | TUNED)
    async with somactl.open_server(**given) as server:
        taken = server.settings
    told = {name: getattr(load({}), name) for name in ("store", "cache", "cache_ttl", "retry_seconds")}
    assert {name: getattr(taken, name) for name in told} == told | expected


BROKEN = {
    "SOMACTL_STORE": f"mysql://u:{SECRET}@db.example/soma",
    "SOMACTL_CACHE": f"redis://:{SECRET}@cache.example:port/0",
    "POSTGRES_URL": f"postgresql://u:{SECRET}@db.example:port/soma",
    "REDIS_URL": f"http://:{SECRET}@cache.example/0",
    "SOMACTL_NAMESPACE": f"a name {SECRET}",
    "SFM_RHO_CACHE_TTL": "never",
    "SFM_RHO_READ_TIMEOUT_MS": "-1",
    "SOMACTL_RETRY_SECONDS": "nan",
    "SFM_DARK_MODE": "perhaps",
    "SOMACTL_CONFIG": "absent.toml",
}


@pytest.mark.parametrize("variable", BROKEN)
async def test_a_setting_that_cannot_be_used_is_named(
    variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    named = {} if variable in ("SOMACTL_STORE", "SOMACTL_CONFIG", "REDIS_URL") else {"POSTGRES_URL": PG}
    surround(monkeypatch, named | {variable: BROKEN[variable]})
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SomactlError) as commanded:
        load({})
    with pytest.raises(ConfigurationError) as raised:
        async with somactl.open_store():
            pass
    assert raised.value.message == commanded.value.message
    assert (BROKEN[variable] if variable == "SOMACTL_CONFIG" else variable) in raised.value.message
    told = [str(raised.value), repr(raised.value.facts), *getattr(raised.value, "__notes__", ()), caplog.text]
    assert SECRET not in "".join(told)


@pytest.mark.parametrize("variable", BROKEN)
async def test_with_a_url_nothing_else_is_read(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(monkeypatch, {variable: BROKEN[variable]})
    async with somactl.open_server("sqlite:///a.db") as server:
        taken = server.settings
    assert (taken.store, taken.cache, taken.namespace) == ("sqlite:///a.db", "", "default")
    assert (taken.cache_ttl, taken.read_timeout, taken.retry_seconds, taken.dark) == (
        300.0,
        0.020,
        5.0,
        False,
    )


async def test_what_an_argument_replaces_need_not_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    surround(
        monkeypatch,
        {
            "SOMACTL_STORE": "sqlite:///a.db",
            **{
                name: BROKEN[name] for name in ("SOMACTL_CACHE", "SOMACTL_NAMESPACE", "SOMACTL_RETRY_SECONDS")
            },
            "SOMACTL_OUTPUT": "no business of a program",
        },
    )
    async with somactl.open_store(namespace="team", cache=None, retry_seconds=0.5) as store:
        assert store.namespace == "team"


@pytest.mark.parametrize("name", ["url", "namespace"])
async def test_a_variable_of_the_program_that_is_not_set_is_no_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`open_store(os.environ.get("MY_STORE"))` must not open what another variable names."""
    surround(monkeypatch, {"SOMACTL_STORE": "sqlite:///a.db"})
    with pytest.raises(UsageError, match=name):
        async with somactl.open_store(**{name: None}):  # type: ignore[arg-type]
            pass


async def test_where_nothing_names_a_store_the_default_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with somactl.open_store() as store:
        await somactl.commit_matrix_update(store, {"a": np.eye(2) / 2})
    assert Path("somactl.db").exists()
    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert told.name == "somactl"
    assert told.getMessage() == (
        "no store is named (SOMACTL_STORE, POSTGRES_URL, REDIS_URL): sqlite:///somactl.db is used"
    )


async def test_what_is_opened_is_logged_without_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    surround(monkeypatch, {"POSTGRES_URL": f"postgresql://u:{SECRET}@db.example/soma", "REDIS_URL": CACHE})
    caplog.set_level(logging.INFO, "somactl")
    async with somactl.open_store():
        pass
    told = [record.getMessage() for record in caplog.records if record.name == "somactl"]
    assert f"store: {PG} (POSTGRES_URL)" in told
    assert f"cache: {CACHE} (REDIS_URL)" in told
    assert "namespace: default (the default)" in told
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert SECRET not in caplog.text
