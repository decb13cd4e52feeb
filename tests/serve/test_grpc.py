"""The gRPC face, asked over the wire: health, the state in detail, reflection, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from somactl.errors import ConfigurationError
from somactl.report.health import NamespaceHealth, PastReason, Reason, RhoHealth, WatchedKey
from somactl.serve import rpc
from somactl.serve.context import Address, Limits, ServeOptions
from somactl.serve.pb import rho_pb2
from somactl.serve.rpc.feed import MAX_WATCHERS, Feed
from somactl.serve.rpc.server import MAX_STREAMS
from support.grpc_face import SECONDS, Client, name_of, problem, serving, told
from support.serving import FakeState, context, healthy

FIRST, CHANGE, HEARTBEAT = (
    rho_pb2.WatchResponse.CAUSE_FIRST,
    rho_pb2.WatchResponse.CAUSE_CHANGE,
    rho_pb2.WatchResponse.CAUSE_HEARTBEAT,
)
BAD = Reason(cause="violated", message="a is no density matrix", fails=True, namespace="a", key="k")


def namespace(ok: bool, *reasons: Reason, **rho: Any) -> NamespaceHealth:
    return NamespaceHealth(ok=ok, degraded=False, rho=RhoHealth(**rho), reasons=[*reasons])


def of_two(*, a: bool, b: bool) -> Any:
    """A report on the namespaces `a` and `b`."""
    reasons = [] if a else [BAD]
    return healthy(
        ok=a and b,
        reasons=reasons,
        namespaces={
            "a": namespace(a, *reasons, namespace="a", psd_ok=a),
            "b": namespace(b, namespace="b", psd_ok=True),
        },
    )


TWO = ("a", "b")


class TestCheck:
    async def test_it_is_not_serving_before_the_first_proof(self) -> None:
        state = FakeState(of_two(a=True, b=True))
        state.is_ready = False
        async with serving(context(state, namespaces=TWO)) as (_, client):
            assert [await client.check(name) for name in ("", "a", "b")] == ["NOT_SERVING"] * 3
            state.is_ready = True
            assert [await client.check(name) for name in ("", "a", "b")] == ["SERVING"] * 3

    async def test_each_namespace_has_its_own_answer_and_the_empty_name_that_of_all(self) -> None:
        async with serving(context(FakeState(of_two(a=False, b=True)), namespaces=TWO)) as (_, client):
            assert [await client.check(name) for name in ("", "a", "b")] == [
                "NOT_SERVING",
                "NOT_SERVING",
                "SERVING",
            ]

    async def test_a_namespace_of_which_nothing_is_said_is_not_serving(self) -> None:
        async with serving(context(FakeState(healthy()), namespaces=TWO)) as (_, client):
            assert (await client.check(""), await client.check("a")) == ("SERVING", "NOT_SERVING")

    async def test_a_change_shows_in_the_very_next_answer(self) -> None:
        state = FakeState(healthy())
        async with serving(context(state)) as (_, client):
            assert await client.check() == "SERVING"
            await state.change(healthy(ok=False))
            assert await client.check() == "NOT_SERVING"

    async def test_what_time_alone_has_changed_shows_without_a_change_that_is_counted(self) -> None:
        state = FakeState(healthy())
        async with serving(context(state)) as (_, client):
            assert await client.check() == "SERVING"
            state.report = healthy(ok=False)
            async with asyncio.timeout(SECONDS):
                while await client.check() == "SERVING":
                    await asyncio.sleep(0.01)

    async def test_many_answers_look_at_the_state_once(self) -> None:
        state = FakeState(healthy())
        async with serving(context(state)) as (_, client):
            for _ in range(20):
                await asyncio.gather(*[client.check() for _ in range(10)])
        assert 1 <= state.asked < 100

    async def test_an_unknown_name_is_not_found(self) -> None:
        async with serving(context()) as (_, client):
            found = await problem(client.check("other"))
        assert (found.code, found.reason) == ("NOT_FOUND", "SERVICE_UNKNOWN")


async def test_list_tells_all_names_where_the_library_knows_that_call() -> None:
    async with serving(context(FakeState(of_two(a=False, b=True)), namespaces=TWO)) as (_, client):
        if not hasattr(health_pb2, "HealthListRequest"):
            call = client.channel.unary_unary("/grpc.health.v1.Health/List")
            assert (await problem(call(b""))).code == "UNIMPLEMENTED"
            return
        found = await client.health.List(health_pb2.HealthListRequest(), timeout=SECONDS)
    assert {name: name_of(each.status) for name, each in found.statuses.items()} == {
        "": "NOT_SERVING",
        "a": "NOT_SERVING",
        "b": "SERVING",
    }


class TestWatchOfHealth:
    async def test_it_tells_at_once_and_then_only_what_is_another(self) -> None:
        state = FakeState(of_two(a=True, b=True))
        async with serving(context(state, namespaces=TWO)) as (_, client):
            of_a, of_b = client.watch("a"), client.watch("b")
            assert [name_of((await told(each)).status) for each in (of_a, of_b)] == ["SERVING", "SERVING"]
            await state.change(of_two(a=False, b=True))
            assert name_of((await told(of_a)).status) == "NOT_SERVING"
            await state.change(of_two(a=True, b=False))
            assert name_of((await told(of_a)).status) == "SERVING"
            assert name_of((await told(of_b)).status) == "NOT_SERVING"  # and nothing between

    async def test_an_unknown_name_stays_open_and_unknown(self) -> None:
        state = FakeState()
        async with serving(context(state)) as (face, client):
            stream = client.watch("other")
            assert name_of((await told(stream)).status) == "SERVICE_UNKNOWN"
            await state.change(healthy(ok=False))
            assert await client.check() == "NOT_SERVING"
            assert not stream.done()
            await face.drain()
            assert (await problem(stream.read())).code == "UNAVAILABLE"

    async def test_a_thousand_are_told_each_and_one_more_is_refused_alone(self) -> None:
        state = FakeState()
        async with (
            serving(context(state)) as (face, client),
            clients_of(str(face.address), MAX_WATCHERS // MAX_STREAMS) as clients,
        ):
            streams = [each.watch() for each in clients for _ in range(MAX_STREAMS)]
            assert {name_of((await told(each)).status) for each in streams} == {"SERVING"}
            found = await problem(client.watch().read())
            assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_WATCHERS")
            assert await client.check() == "SERVING"
            await state.change(healthy(ok=False))
            assert {name_of((await told(each)).status) for each in streams} == {"NOT_SERVING"}
            streams[0].cancel()
            async with asyncio.timeout(SECONDS):
                while not await is_watching(client):  # the server hears of it in its own time
                    await asyncio.sleep(0.01)


class TestStatus:
    async def test_it_tells_all_of_the_report_and_unknown_as_not_set(self) -> None:
        report = healthy(
            ok=False,
            dark=True,
            reasons=[BAD],
            since_start=[PastReason(cause="stale", message="m", first_at=1.0, last_at=2.0)],
            rho=RhoHealth(psd_ok=None, findings=[WatchedKey(key="k", outcome="violated", store="cache")]),
        )
        async with serving(context(FakeState(report))) as (_, client):
            found = (await client.rho.Status(rho_pb2.StatusRequest(), timeout=SECONDS)).health
        assert (found.ok, found.dark, found.schema_version) == (False, True, report.schema_version)
        assert (found.rho.HasField("psd_ok"), found.rho.HasField("trace_error")) == (False, False)
        assert [each.key for each in found.rho.findings] == ["k"]
        assert [(each.cause, each.fails, each.key) for each in found.reasons] == [("violated", True, "k")]
        assert [(each.cause, each.count) for each in found.since_start] == [("stale", 1)]

    @pytest.mark.parametrize("known", [True, False])
    async def test_a_known_answer_is_set_whatever_it_is(self, known: bool) -> None:
        report = healthy(rho=RhoHealth(psd_ok=known, trace_error=0.0, sample_version=0))
        async with serving(context(FakeState(report))) as (_, client):
            rho = (await client.rho.Status(rho_pb2.StatusRequest(), timeout=SECONDS)).health.rho
        assert [rho.HasField(name) for name in ("psd_ok", "trace_error", "sample_version")] == [True] * 3
        assert (rho.psd_ok, rho.trace_error, rho.sample_version) == (known, 0.0, 0)

    async def test_of_one_namespace_it_tells_that_alone(self) -> None:
        async with serving(context(FakeState(of_two(a=False, b=True)), namespaces=TWO)) as (_, client):
            request = rho_pb2.StatusRequest(namespace="b")
            found = (await client.rho.Status(request, timeout=SECONDS)).health
            unknown = await problem(client.rho.Status(rho_pb2.StatusRequest(namespace="c"), timeout=SECONDS))
        assert (found.ok, list(found.namespaces), list(found.reasons)) == (True, ["b"], [])
        assert found.rho.namespace == "b"
        assert (unknown.code, unknown.reason) == ("NOT_FOUND", "NamespaceNotFound")
        assert (unknown.facts["exit_code"], unknown.facts["hint"]) == ("15", "watched: a, b")

    async def test_watched_keys_are_told_on_request_and_counted(self) -> None:
        state = FakeState(of_two(a=True, b=True))
        state.found["a"] = [WatchedKey(key=f"k{n}", outcome="valid", store="postgres") for n in range(5)]
        async with serving(context(state, namespaces=TWO)) as (_, client):
            without = await client.rho.Status(rho_pb2.StatusRequest(), timeout=SECONDS)
            request = rho_pb2.StatusRequest(keys=True, max_keys=2)
            found = await client.rho.Status(request, timeout=SECONDS)
        assert list(without.keys) == []
        assert [(each.namespace, [key.key for key in each.keys], each.total) for each in found.keys] == [
            ("a", ["k0", "k1"], 5),
            ("b", [], 0),
        ]

    async def test_watched_keys_are_a_read_that_a_proxied_caller_needs_a_token_for(self) -> None:
        async with serving(context()) as (_, client):
            call = client.rho.Status(
                rho_pb2.StatusRequest(keys=True), metadata=[("x-forwarded-for", "10.0.0.7")], timeout=SECONDS
            )
            found = await problem(call)
        assert (found.code, found.reason) == ("PERMISSION_DENIED", "CLOSED")


class TestWatchOfRho:
    async def test_it_tells_each_change_and_beats_between_them(self) -> None:
        state = FakeState()
        async with serving(context(state)) as (_, client):
            stream = client.rho.Watch(rho_pb2.WatchRequest(heartbeat_seconds=1), timeout=SECONDS)
            first, beat = await told(stream), await told(stream)
            await state.change(healthy(ok=False))
            change = await told(stream)
            while change.cause == HEARTBEAT:  # one may have come before
                change = await told(stream)
        assert [(each.cause, each.health.ok, each.changes) for each in (first, beat, change)] == [
            (FIRST, True, 0),
            (HEARTBEAT, True, 0),
            (CHANGE, False, 1),
        ]

    @pytest.mark.parametrize("seconds", [0.0, 0.5, 301.0, float("nan"), float("inf")])
    async def test_a_heartbeat_has_bounds(self, seconds: float) -> None:
        async with serving(context()) as (_, client):
            stream = client.rho.Watch(rho_pb2.WatchRequest(heartbeat_seconds=seconds), timeout=SECONDS)
            found = await problem(stream.read())
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "UsageError")

    async def test_a_client_that_reads_slowly_is_told_the_newest_state(self) -> None:
        state = FakeState()
        async with serving(context(state)) as (_, client):
            stream = client.rho.Watch(rho_pb2.WatchRequest(), timeout=SECONDS)
            await told(stream)
            for _ in range(500):
                await state.change()
            changes = [0]
            while changes[-1] < 500:
                changes.append((await told(stream)).changes)
        assert changes == sorted(set(changes))


class TestDrain:
    async def test_all_are_told_that_it_does_not_serve_and_calls_under_way_end_in_peace(self) -> None:
        state = FakeState()
        async with serving(context(state)) as (face, client):
            health, rho = client.watch(), client.rho.Watch(rho_pb2.WatchRequest(), timeout=SECONDS)
            await told(health)
            await told(rho)
            state.drain()
            await face.drain()
            assert name_of((await told(health)).status) == "NOT_SERVING"
            await told(rho)
            for stream in (health, rho):
                found = await problem(stream.read())
                assert (found.code, found.reason) == ("UNAVAILABLE", "DRAINING")
            assert await client.check() == "NOT_SERVING"  # a call, all the same
            assert (await problem(client.watch().read())).code == "UNAVAILABLE"

    async def test_the_port_is_free_when_it_has_stopped(self) -> None:
        face = await rpc.serve(context(), Address("127.0.0.1", 0))
        await face.stop(SECONDS)
        again = await rpc.serve(context(), face.address)
        assert again.address == face.address
        await again.stop(0)


async def test_a_port_that_is_taken_is_refused() -> None:
    async with serving(context()) as (face, _):
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            await rpc.serve(context(), face.address)


async def test_reflection_describes_every_service() -> None:
    async with serving(context()) as (_, client):
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        stream = stub.ServerReflectionInfo(timeout=SECONDS)
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = {each.name for each in (await stream.read()).list_services_response.service}
        described = set()
        for name in names:
            await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
            files = (await stream.read()).file_descriptor_response.file_descriptor_proto
            file = descriptor_pb2.FileDescriptorProto.FromString(files[0])
            described |= {f"{file.package}.{each.name}" for each in file.service}
        stream.cancel()
    assert names == described
    assert {"somactl.v1.Rho", "somactl.v1.Prune", "grpc.health.v1.Health"} < names


async def test_a_bug_is_told_without_what_it_says_and_the_log_says_where_it_is() -> None:
    class Broken(FakeState):
        def health(self) -> Any:
            raise ValueError("secret")

    lines: list[bytes] = []
    given = context(Broken(), lines=lines)
    async with serving(given) as (_, client):
        found = await problem(client.rho.Status(rho_pb2.StatusRequest(), timeout=SECONDS))
    given.log.close()
    assert (found.code, found.reason) == ("INTERNAL", "BUG")
    told_of = [json.loads(line) for line in lines]
    assert [each["event"] for each in told_of] == ["bug", "request"]
    assert "in health" in told_of[0]["frames"][-1]
    assert b"secret" not in b"".join(lines)
    assert "secret" not in str(found)


@pytest.mark.parametrize(("level", "paths"), [("all", 3), ("errors", 1), ("none", 0)])
async def test_each_call_has_its_line_in_the_log(level: Any, paths: int) -> None:
    lines: list[bytes] = []
    given = context(lines=lines, options=ServeOptions(access_log=level))
    async with serving(given) as (_, client):
        await client.check()
        await client.rho.Status(rho_pb2.StatusRequest(keys=True), timeout=SECONDS)
        await problem(client.check("other"))
        await problem(client.channel.unary_unary("/a.B/C")(b""))
    given.log.close()
    found = [json.loads(line) for line in lines]
    requests = [each for each in found if each["event"] == "request"]
    assert len(requests) == paths
    assert [each["path"] for each in found if each["event"] == "refused"] == ["/a.B/C"]
    if level == "all":
        assert [each["status"] for each in requests] == ["OK", "OK", "NOT_FOUND"]
        assert requests[1]["caller"] == "local"
        assert {each["client"] for each in requests} == {"127.0.0.1"}


async def test_calls_under_way_are_bounded_and_health_is_not_among_them() -> None:
    given = context(options=ServeOptions(limits=Limits(requests=0)))
    async with serving(given) as (_, client):
        found = await problem(client.rho.Status(rho_pb2.StatusRequest(), timeout=SECONDS))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        assert await client.check() == "SERVING"


async def test_a_watching_call_is_told_though_waiting_for_the_state_failed() -> None:
    class Failing(FakeState):
        failed = False

        async def changed(self, seen: int) -> int:
            if not self.failed:
                self.failed = True
                raise ValueError
            return await super().changed(seen)

    state = Failing()
    feed = Feed(context(state))
    turn = feed.turn
    feed.start()
    async with asyncio.timeout(SECONDS):
        await turn.wait()
    turn = feed.turn
    await state.change()
    async with asyncio.timeout(SECONDS):
        await turn.wait()
    await feed.close()


@contextlib.asynccontextmanager
async def clients_of(target: str, count: int) -> AsyncIterator[list[Client]]:
    """Some clients with a connection each."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        yield [
            Client(await stack.enter_async_context(grpc.aio.insecure_channel(target, options=own)))
            for _ in range(count)
        ]


async def is_watching(client: Client) -> bool:
    try:
        await told(client.watch())
    except grpc.aio.AioRpcError:
        return False
    return True
