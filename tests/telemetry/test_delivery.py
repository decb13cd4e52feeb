"""What could not be pushed waits in a folder, and goes with the next push, the oldest first."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from servers.process import free_port
from servers.prometheus import Pushgateway
from somactl.cli.pushing import spool as opened
from somactl.telemetry import spool as spools
from somactl.telemetry.delivery import NO_TIME, Delivered, Parcel, deliver
from somactl.telemetry.observe import Observation, Sample
from somactl.telemetry.pushgateway import Access, Gateway, parse_url
from somactl.telemetry.registry import exposition, merged
from somactl.telemetry.spool import Spool
from tests.telemetry.silent import Answering

LAST_RUN = "somabrain_job_last_run_timestamp_seconds"
NO_GROUPS = b'{"data": []}'


def gateway(url: str, seconds: float = 10.0) -> Gateway:
    return Gateway(Access(parse_url(url, "--gateway", by_flag=True)), seconds)


def down() -> Gateway:
    return gateway(f"http://127.0.0.1:{free_port()}")


def parcel(ended_at: float | None, job: str = "prune", source: str = "") -> Parcel:
    text = exposition([Sample(LAST_RUN, ended_at or 0.0)])
    return Parcel({"job": job, "namespace": "default"}, ended_at, text, source)


def spool(folder: Path) -> Spool:
    found = opened(str(folder))
    assert isinstance(found, Spool)
    return found


def told(done: Delivered) -> dict[str, list[float | None]]:
    return {
        "pushed": [each.ended_at for each in done.pushed],
        "dropped": [each.ended_at for each, _ in done.dropped],
        "kept": [each.ended_at for each, _ in done.kept],
        "failed": [each.ended_at for each, _ in done.failed],
    }


def outcome(**members: list[float | None]) -> dict[str, list[float | None]]:
    return {"pushed": [], "dropped": [], "kept": [], "failed": [], **members}


def test_what_is_kept_goes_first_and_the_oldest_before_all(tmp_path: Path, pushgateway: Pushgateway) -> None:
    for ended_at in (30.0, 10.0, 20.0):
        assert told(deliver([parcel(ended_at)], down(), spool(tmp_path))) == outcome(kept=[ended_at])
    done = deliver([parcel(40.0)], gateway(pushgateway.url), spool(tmp_path))
    assert told(done) == outcome(pushed=[10.0, 20.0, 30.0, 40.0])
    assert list(tmp_path.iterdir()) == []
    assert pushgateway.value(LAST_RUN) == 40.0


def test_what_is_older_than_the_last_run_of_its_group_is_dropped(
    tmp_path: Path, pushgateway: Pushgateway
) -> None:
    deliver([parcel(10.0), parcel(10.0, "compact")], down(), spool(tmp_path))
    deliver([parcel(20.0)], gateway(pushgateway.url))
    done = deliver([parcel(30.0, "other")], gateway(pushgateway.url), spool(tmp_path))
    assert told(done) == outcome(pushed=[10.0, 30.0], dropped=[10.0])
    assert done.dropped[0][0].group["job"] == "prune"
    assert pushgateway.value(LAST_RUN, job="prune") == 20.0


def test_files_of_the_past_are_put_in_order_and_the_newest_of_a_group_wins(pushgateway: Pushgateway) -> None:
    deliver([parcel(20.0)], gateway(pushgateway.url))
    given = [parcel(40.0), parcel(30.0), parcel(5.0, "compact"), parcel(None, "compact", "x.json")]
    done = deliver(given, gateway(pushgateway.url), past=True)
    assert told(done) == outcome(pushed=[5.0, 40.0], dropped=[30.0], failed=[None])
    assert done.failed[0][1] == NO_TIME
    assert told(deliver([parcel(39.0)], gateway(pushgateway.url), past=True)) == outcome(dropped=[39.0])
    assert told(deliver([parcel(40.0)], gateway(pushgateway.url), past=True)) == outcome(pushed=[40.0])


def test_what_the_gateway_refuses_holds_up_nothing_else(tmp_path: Path, pushgateway: Pushgateway) -> None:
    bad = Parcel({"job": "bad", "namespace": "default"}, 10.0, b"rubbish {\n")
    done = deliver([bad, parcel(20.0)], gateway(pushgateway.url), spool(tmp_path))
    assert told(done) == outcome(pushed=[20.0], kept=[10.0])
    done = deliver([parcel(30.0)], gateway(pushgateway.url), spool(tmp_path))
    assert told(done) == outcome(pushed=[30.0], dropped=[10.0])  # twice refused is refused for ever
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", ["503 Busy", "401 Unauthorized"])
def test_where_the_gateway_takes_nothing_all_is_kept(tmp_path: Path, status: str) -> None:
    deliver([parcel(10.0)], down(), spool(tmp_path))
    with Answering(status) as server:
        done = deliver([parcel(20.0)], gateway(server.url), spool(tmp_path))
    assert told(done) == outcome(kept=[20.0])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_another_process_sends_from_is_left_to_it(tmp_path: Path) -> None:
    deliver([parcel(10.0)], down(), spool(tmp_path))
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    try:
        with Answering(body=NO_GROUPS) as server:
            done = deliver([parcel(20.0)], gateway(server.url), spool(tmp_path))
        assert told(done) == outcome(pushed=[20.0])
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        os.close(held)


def test_a_spool_is_bounded_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "MAX_ENTRIES", 3)
    kept = spool(tmp_path)
    lost = [deliver([parcel(float(k))], down(), kept).lost for k in (5, 1, 4, 3, 2)]
    assert lost == [0, 0, 0, 1, 1]
    assert [each.entry.ended_at for each in kept.entries()] == [3.0, 4.0, 5.0]
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(spools, "MAX_BYTES", size)
    assert deliver([parcel(6.0)], down(), kept).lost == 1


def test_files_that_are_no_entries_are_left_alone(tmp_path: Path) -> None:
    deliver([parcel(10.0)], down(), spool(tmp_path))
    (name,) = os.listdir(tmp_path)
    (tmp_path / "README").write_text("mine")
    (tmp_path / f"0{name[1:-20]}00000000.somactl-push").write_text('{"format": 1')
    with Answering(body=NO_GROUPS) as server:
        done = deliver([], gateway(server.url), spool(tmp_path))
        assert told(done) == outcome(pushed=[10.0])
    assert name not in os.listdir(tmp_path)
    assert (tmp_path / "README").exists()


def test_an_interruption_keeps_what_was_not_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Gateway, "push", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deliver([parcel(10.0)], down(), spool(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_text_file_is_merged_as_a_gateway_would() -> None:
    group = {"job": "prune", "namespace": "default"}
    success = "somabrain_job_last_success_timestamp_seconds"

    def seen(ended_at: float, *names: str, **labels: str) -> Observation:
        samples = tuple(Sample(name, ended_at) for name in (LAST_RUN, *names))
        return Observation({**group, **labels}, samples, ended_at)

    text = merged("", [seen(1.0, success)])[0].decode()
    text = merged(text, [seen(2.0), seen(1.5, shard="1/2")])[0].decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert sorted(lines) == [
        f'{LAST_RUN}{{job="prune",namespace="default",shard="1/2"}} 1.5',
        f'{LAST_RUN}{{job="prune",namespace="default"}} 2.0',
        f'{success}{{job="prune",namespace="default"}} 1.0',
    ]
    older = seen(1.9, success)
    assert merged(text, [older], past=True) == (text.encode(), [older])
    assert merged(text, [older])[0].decode() != text  # this run's own, whatever a clock said before
    assert merged("other 1\n", []) == (b"", [])
