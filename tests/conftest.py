"""What every test stands on: a clean environment, reproducible examples, and the servers' logs on failure."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import selection
from servers import external, process
from servers.fixtures import (
    chromium,
    gateway_server,
    legacy_postgres,
    legacy_postgres_copy,
    legacy_redis,
    legacy_redis_copy,
    pgbouncer,
    postgres_server,
    prometheus,
    pushgateway,
    redis_cluster,
    redis_server,
)

__all__ = [  # any test may ask for them
    "chromium",
    "gateway_server",
    "legacy_postgres",
    "legacy_postgres_copy",
    "legacy_redis",
    "legacy_redis_copy",
    "pgbouncer",
    "postgres_server",
    "prometheus",
    "pushgateway",
    "redis_cluster",
    "redis_server",
]

settings.register_profile(
    "somactl", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("somactl")

external.take(os.environ)

# No test, and no somactl that a test starts, sees a setting of the machine it runs on.
_STRANGERS = ("SOMACTL_", "SFM_", "POSTGRES_URL", "REDIS_URL", "NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS")
for _name in [name for name in os.environ if name.startswith(_STRANGERS)]:
    if not _name.startswith("SOMACTL_TEST_"):  # for the tests themselves
        del os.environ[_name]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the developer's servers to a worker of pytest-xdist, whose environment lacks them by now."""
    node.workerinput["servers"] = external.urls


def pytest_configure(config: pytest.Config) -> None:
    external.urls.update(getattr(config, "workerinput", {}).get("servers", {}))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of what `make test` left out alone, most files have nothing: to import them all takes long."""
    ours = config.option.markexpr == "full" and collection_path.suffix == ".py"
    return True if ours and not selection.may_have_one(str(collection_path)) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    whole = config.args == config.getini("testpaths") and not config.option.ignore
    selection.mark(items, whole=whole and config.option.markexpr != "full")


_log_sizes: dict[process.Server, int] = {}


def pytest_runtest_setup() -> None:
    global _log_sizes
    _log_sizes = process.log_sizes()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += process.logs_since(_log_sizes)
    return report
