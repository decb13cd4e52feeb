"""An operator whose commit got no answer: exit code 14, and the command that settles it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.places import Place, RedisPlace
from faults.proxy import Proxy
from somactl.testing.values import event_versions

SOMACTL = str(Path(sys.executable).with_name("somactl"))


async def somactl(url: str, place: Place, *words: str, **settings: str) -> tuple[int, Any, str]:
    """Exit code, what it printed as JSON, and stderr."""
    environment = {
        "PATH": os.environ["PATH"],
        "OPENBLAS_NUM_THREADS": "1",
        "SOMACTL_STORE": url,
        "SOMACTL_NAMESPACE": place.namespace,
        "SOMACTL_OUTPUT": "json",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        SOMACTL, *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, json.loads(out or b"null"), err.decode()


def state_file(folder: Path) -> str:
    path = folder / "state.json"
    path.write_text("[[0.5, 0.0], [0.0, 0.5]]")
    return f"state={path}"


async def versions(place: Place) -> list[int]:
    """The versions that have events."""
    store = place.open()
    try:
        return await event_versions(store)
    finally:
        await store.close()


async def test_the_reply_of_a_commit_is_lost(authority: Callable[..., Place], tmp_path: Path) -> None:
    place = authority("reply-lost")
    await place.init()
    words = ("commit", "--commit-id", "lost", state_file(tmp_path))
    async with Proxy(place.server.port) as proxy:
        # What only the answer to a commit holds: the script's word, and the durability.
        proxy.cut("received", b"done" if isinstance(place, RedisPlace) else b"fsync")
        code, _, err = await somactl(place.through(proxy.port).url, place, *words, SOMACTL_RETRY_SECONDS="0")
        assert proxy.happened.is_set()
        assert code == 14, err
        assert "somactl status lost --resolve" in err
        proxy.drop()
    code, report, _ = await somactl(place.spec.url, place, "status", "lost", "--resolve")
    assert (code, report["commit"]["state"], report["final"]) == (0, "committed", True)
    # As safe: the same command again, which retries by itself.
    code, report, err = await somactl(place.spec.url, place, *words)
    assert code == 0, err
    assert report["replayed"]
    assert await versions(place) == [1]


async def test_the_request_of_a_commit_is_lost(authority: Callable[..., Place], tmp_path: Path) -> None:
    place = authority("request-lost")
    await place.init()
    words = ("commit", "--commit-id", "never-arrived", state_file(tmp_path))
    async with Proxy(place.server.port) as proxy:
        proxy.cut("sent", b"never-arrived")
        code, _, err = await somactl(place.through(proxy.port).url, place, *words, SOMACTL_RETRY_SECONDS="0")
        assert proxy.happened.is_set()
        assert code == 14, err
        proxy.drop()
    code, report, _ = await somactl(place.spec.url, place, "status", "never-arrived", "--resolve")
    assert (code, report["commit"]["state"], report["final"]) == (15, "aborted", True)
    code, _, err = await somactl(place.spec.url, place, *words)
    assert code == 11, err
    assert await versions(place) == []


async def test_a_lost_reply_is_settled_by_the_command_itself(
    authority: Callable[..., Place], tmp_path: Path
) -> None:
    place = authority("reply-lost-once")
    await place.init()
    async with Proxy(place.server.port) as proxy:
        proxy.cut("received", b"done" if isinstance(place, RedisPlace) else b"fsync")
        words = ("commit", "--commit-id", "twice", state_file(tmp_path))
        code, report, err = await somactl(place.through(proxy.port).url, place, *words)
        assert proxy.happened.is_set()
        assert code == 0, err
        assert report["replayed"]
        proxy.drop()
    assert await versions(place) == [1]
