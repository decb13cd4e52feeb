"""`somactl serve` as a process: how it begins, what it hears, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servers.certificates import make_certificates
from servers.process import free_port
from support.serve_process import WAIT_SECONDS, ServeProcess
from support.violation import put_violation
from tests.cli.conftest import Shell, density

PRUNER = "pruner-0123456789abcdef"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def store(shell: Shell) -> Path:
    """A folder whose database holds one rho."""
    shell.save("a.npy", density(3))
    shell.ok("commit", "a=a.npy")
    return shell.folder


def healthy(serving: ServeProcess) -> None:
    serving.event("health", ok=True)
    status, body = serving.get("/healthz")
    assert (status, json.loads(body)["rho"]["psd_ok"]) == (200, True)


def test_it_serves_over_both_faces_and_ends_with_0(store: Path) -> None:
    with ServeProcess(
        store, "--grpc", "127.0.0.1:0", "--interval", "200ms", "--access-log", "all"
    ) as serving:
        healthy(serving)
        assert int(serving.event("serving")["grpc"].rpartition(":")[2])
        assert b'somabrain_rho_psd_ok{namespace="default"} 1.0' in serving.get("/metrics")[1]
        assert serving.get("/")[0] == 200
        secrets = {"Authorization": "Bearer hunter2", "Cookie": "hunter2", "User-Agent": "hunter2"}
        assert serving.get("/v1/rho/a?token=hunter2", **secrets)[0] in (200, 400, 401)
        assert serving.get("/healthz?url=http://u:hunter2@h/", Referer="http://u:hunter2@h/")[0] == 200
        code, report = serving.end()
        assert (code, report["code"], report["cut_off"]) == (0, 0, 0)
        assert report["requests"] == 5
        assert [line["path"] for line in serving.lines if line.get("event") == "request"][-1] == "/healthz"
        assert b"hunter2" not in serving.raw


def test_what_is_under_way_is_finished_and_what_comes_meanwhile_is_told(store: Path) -> None:
    """Not ready first; the answers go on; and each is the last of its connection."""
    with ServeProcess(store, "--pause", "30s", "--grace", "60s") as serving:
        healthy(serving)
        serving.process.send_signal(signal.SIGTERM)
        serving.event("draining")
        assert serving.get("/readyz")[0] == 503
        assert serving.get("/livez")[0] == 200
        assert serving.get("/healthz")[0] == 200
        code, report = serving.end(signal.SIGINT)  # the second one
        assert code in (130, 143)
        assert report is None


def test_it_ends_within_the_grace_whatever_clients_do(store: Path) -> None:
    with ServeProcess(store, "--grace", "2s") as serving, contextlib.ExitStack() as stack:
        port = serving.port
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(HEALTH[: 5 * number])
        idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        idle.sendall(HEALTH)
        assert idle.recv(10).startswith(b"HTTP/1.1")
        code, report = serving.end()
        assert (code, report["cut_off"]) == (0, 0)
        assert report["seconds"] < WAIT_SECONDS


def test_no_prover_is_left(store: Path) -> None:
    with ServeProcess(store) as serving:
        healthy(serving)
        children = (
            Path(f"/proc/{serving.process.pid}/task/{serving.process.pid}/children").read_text().split()
        )
        assert children
        assert serving.end()[0] == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_port_in_use_is_one_clear_error(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with ServeProcess(store, "--http", f"127.0.0.1:{port}") as serving:
            code, _ = serving.ended()
            assert code == 10
            assert (
                serving.lines[-1]["message"] == f"cannot listen on 127.0.0.1:{port}: address already in use"
            )


def test_the_same_port_twice_is_one_clear_error(shell: Shell) -> None:
    result = shell("serve", "--http", "127.0.0.1:18080", "--grpc", "127.0.0.1:18080", "-o", "json")
    assert result.code == 2
    assert "same address" in result.error["message"]
    assert result.error["next"].endswith("--grpc off")


def test_the_log_says_what_is_wrong_and_with_which_key(store: Path) -> None:
    put_violation(f"sqlite:///{store / 'somactl.db'}", "bad")
    with ServeProcess(store) as serving:
        said = serving.event("health", ok=False, reasons=["violated"])
        assert said["why"] == "key 'bad' in sqlite is no density matrix"
        assert serving.end()[0] == 0


def test_a_file_of_tokens_that_is_not_there_is_told_as_what_it_is(shell: Shell) -> None:
    result = shell("serve", "--http", "127.0.0.1:0", "--grpc", "off", "--tokens", "nope", "-o", "json")
    assert result.code == 10
    assert result.error["message"] == "the file of tokens cannot be read: nope: no such file or directory"


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_nothing_is_said_to_other_machines_in_the_clear(shell: Shell, option: str) -> None:
    other = "--grpc" if option == "--http" else "--http"
    words = ["serve", option, "0.0.0.0:0", other, "127.0.0.1:0"]
    result = shell(*words, "-o", "json")
    assert result.code == 10
    assert "--allow-plaintext" in result.error["next"]


def test_it_says_how_to_get_what_is_missing(shell: Shell) -> None:
    hidden = shell.folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'uvicorn' else find(name, *a)\n"
    )
    with ServeProcess(shell.folder, env={"PYTHONPATH": str(hidden)}) as serving:
        assert serving.ended()[0] == 10
        assert "uvicorn" in serving.lines[-1]["message"]
        assert "somactl[serve]" in serving.lines[-1]["hint"]
    with ServeProcess(shell.folder, "--http", "0.0.0.0:0", env={"PYTHONPATH": str(hidden)}) as serving:
        assert serving.ended()[0] == 10  # what is wrong with the command comes first
        assert "--allow-plaintext" in serving.lines[-1]["next"]


def test_a_hangup_reads_certificates_and_tokens_anew_and_keeps_what_was_valid(store: Path) -> None:
    files = make_certificates(store)
    tokens = tokens_of(store)
    tls = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    with ServeProcess(store, *tls, "--tokens", str(tokens)) as serving:
        assert serving.event("serving")["http"].startswith("https://")
        for file, garbage in ((files.key, "no key"), (tokens, "no tokens")):
            valid = file.read_text()
            file.write_text(garbage)
            serving.process.send_signal(signal.SIGHUP)
            assert str(file) in serving.event("not reloaded")["why"]
            assert not [line for line in serving.lines if line.get("event") == "reloaded"]
            file.write_text(valid)
            serving.lines.clear()
        serving.process.send_signal(signal.SIGHUP)
        serving.event("reloaded")
        assert not [line for line in serving.lines if line.get("event") == "not reloaded"]
        assert serving.end()[0] == 0


def tokens_of(folder: Path) -> Path:
    path = folder / "tokens"
    path.touch(0o600)
    path.write_text(f"manager prune {PRUNER}\n")
    return path


class Manager:
    """The end of systemd: a socket that notifications come to, and which takes all at once: few may wait."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(self.path))
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while said := self.notified.recv(1000):
                self._said.put(said.decode())

    def next(self) -> str:
        return self._said.get(timeout=WAIT_SECONDS)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self.notified.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path)
    yield found
    found.close()


def test_systemd_hands_over_both_sockets_and_hears_of_the_state(store: Path, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as other:
        first, second = other.fileno(), web.fileno()
        moved = f"8<&{first} 9<&{second} {first}<&- {second}<&-"
        script = f'export LISTEN_PID=$$; exec "$0" "$@" {moved} 3<&8 4<&9 8<&- 9<&-'
        environ = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "grpc:http", "WATCHDOG_USEC": "300000"}
        environ["NOTIFY_SOCKET"] = str(manager.path)
        with ServeProcess(
            store,
            "--grpc",
            "127.0.0.1:1",
            env=environ,
            through=("bash", "-c", script),
            pass_fds=[first, second],
        ) as serving:
            assert manager.next() == "READY=1"
            assert serving.port == web.getsockname()[1]
            address = serving.event("serving")["grpc"]
            assert int(address.rpartition(":")[2]) == other.getsockname()[1]
            assert manager.next() == "WATCHDOG=1"
            healthy(serving)
            while serving.get("/readyz")[0] != 200:  # the first round has told all, and not ended
                pass
            assert checked(address) == health_pb2.HealthCheckResponse.SERVING
            serving.process.send_signal(signal.SIGTERM)
            while (said := manager.next()) != "STOPPING=1":
                assert said == "WATCHDOG=1"
            assert serving.ended()[0] == 0


def checked(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS).status


def test_a_prune_order_ends_between_two_batches_when_the_process_is_to_end(shell: Shell) -> None:
    """What is under way may take the whole grace, and an order could; but it can be gone on with."""
    count = 600
    shell.save("a.npy", density(2))
    keys = [f"k{number}" for number in range(count)]
    shell.ok("commit", *(f"{key}=a.npy" for key in keys))
    with ServeProcess(shell.folder, "--tokens", str(tokens_of(shell.folder)), "--grace", "300s") as serving:
        port = serving.port

        def order() -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5 * WAIT_SECONDS)
            with contextlib.closing(connection):
                path = "/v1/prune-orders?order_id=long&batch=1"
                who = {"authorization": f"Bearer {PRUNER}", "prefer": "wait=60"}
                connection.request("POST", path, json.dumps(keys), who)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())

        with ThreadPoolExecutor(1) as thread:
            sent = thread.submit(order)
            while len(shell.ok("ls", "-o", "json").json["keys"]) == count:
                assert not sent.done(), sent.result()
            code, report = serving.end()
            status, body = sent.result()
        assert (code, report["cut_off"]) == (0, 0)
        assert (status, body["title"], body["retryable"]) == (503, "Unfinished", True)
        assert 0 < body["report"]["deleted_keys"] < count


def test_a_port_of_ones_own_choice(store: Path) -> None:
    port = free_port()
    with ServeProcess(store, "--http", f"localhost:{port}") as serving:
        assert serving.port == port
        assert serving.get("/livez")[0] == 200
