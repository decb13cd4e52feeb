"""What asks the gRPC face runs on the loop that `somactl serve` runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    on_uvloop = item.path.name.startswith("test_grpc")
    return {"uvloop": uvloop.new_event_loop} if on_uvloop else {"asyncio": asyncio.new_event_loop}
