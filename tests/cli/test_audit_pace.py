"""An audit that is to be gentle, on a Redis that another client keeps busy."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from servers.redis import RedisServer
from support.forkserver import BEFORE
from tests.cli.conftest import Shell, density

RHO = json.dumps(density(2).tolist())
LINES = "".join(f'{{"key": "k{i:03d}", "value": {RHO}}}\n' for i in range(20)).encode()
SMALL_PAGES = """
from somactl.operations.audit.pages import pages
pages.__kwdefaults__["page_keys"] = 4
"""
BUSY = """
local t = redis.call('TIME')
local until_ = t[1] * 1e6 + t[2] + 100000
repeat t = redis.call('TIME') until t[1] * 1e6 + t[2] >= until_
"""


@contextmanager
def kept_busy(server: RedisServer) -> Iterator[threading.Event]:
    """Scripts of 100 ms one after the other, until the event is set. The next ones already wait in the
    server, or it would be free for as long as this busy machine takes to send one."""
    enough = threading.Event()

    def work() -> None:
        with server.client() as raw:
            while not enough.is_set():
                raw.eval(BUSY, 0)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield enough
    finally:
        enough.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def audited(shell: Shell, redis_server: RedisServer) -> Iterator[Shell]:
    with redis_server.client() as raw:
        raw.flushdb()
    shell.ok("init", "--store", redis_server.url)
    shell.ok("commit", "--store", redis_server.url, stdin=LINES)
    yield shell
    with redis_server.client() as raw:
        raw.flushdb()


def test_it_holds_back_while_redis_is_busy_and_goes_on_afterwards(
    audited: Shell, redis_server: RedisServer
) -> None:
    """Five pages, of which it reads one in 0.4 s: enough to find out, whenever its questions fall."""
    words = ("verify-psd", "--all", "--rate", "10", "--max-latency", "5ms", "--output", "json")
    words += ("--store", redis_server.url)
    with kept_busy(redis_server) as enough:
        process = audited.begin(*words, env={BEFORE: SMALL_PAGES})
        assert process.stderr is not None
        told = process.stderr.readline().decode()
        enough.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    said = json.loads(told)["message"]
    assert re.fullmatch(r"holding back: the store answers in \S+ ms, more than 5 ms \(--max-latency\)", said)
    report = json.loads(out)
    assert (report["valid"], report["complete"]) == (20, True)
    assert report["held_back_seconds"] > 0
