"""What the examples for Kubernetes, systemd and containers start: it serves, and ends when it is asked to."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servers.certificates import make_certificates
from servers.process import free_port
from somactl.config import Settings
from somactl.runtime import open_store
from support.audited import fill
from tests.serve.test_kubernetes_serve import DEPLOYMENTS, arguments, container
from tests.serve.test_systemd import PROGRAM, UNIT

SECONDS = 60.0
TOKEN = "kZ3vIr0n3J6sB7mBkqQ1x0rF2m9WlY8p"

AS_SYSTEMD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, as MemoryDenyWriteExecute; older kernels have it not
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "somactl", *sys.argv[2:]])
"""

pytestmark = pytest.mark.source


class Mounted(NamedTuple):
    """What a deployment finds on its disk."""

    folder: Path
    keys: list[str]

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest_asyncio.fixture
async def mounted(tmp_path: Path) -> Mounted:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    (tmp_path / "config.toml").write_text(f'store = "{url}"\n')
    (tmp_path / "tokens").write_text(f"prometheus read {TOKEN}\n")
    (tmp_path / "tokens").chmod(0o440)
    async with open_store(Settings(store=url)) as store:
        return Mounted(tmp_path, await fill(store, 3))


class Serving:
    """A `somactl serve` that is under way; ended at the latest when the block ends."""

    def __init__(
        self, words: list[str], environment: Mapping[str, str], folder: Path, listening: int | None = None
    ) -> None:
        """listening: the socket that systemd has made for it."""
        self.log = folder / "serve.log"
        start = ["-m", "somactl"] if listening is None else ["-c", AS_SYSTEMD, str(listening)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *start, *words],
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if listening is None else (listening,),
            )

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def until(self, url: str, context: ssl.SSLContext | None = None) -> Any:
        """The JSON that it answers there, once it does with 200."""
        deadline = time.monotonic() + SECONDS
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(url, context=context, timeout=5) as answer:
                    return json.load(answer)
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)

    def end(self) -> None:
        """As kubelet and systemd end it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) == 0, self.log.read_text()


def pod(name: str, folder: Path, http: int, grpc_port: int) -> tuple[list[str], dict[str, str]]:
    """Words and variables of a pod's container, whose mounts are `folder`."""
    deployment = DEPLOYMENTS[name]

    def here(text: str) -> str:
        return text.replace("/etc/somactl-tls", str(folder)).replace("/etc/somactl", str(folder))

    ports = {"--http": f"127.0.0.1:{http}", "--grpc": f"127.0.0.1:{grpc_port}"}
    given = {flag: ports.get(flag, here(value)) for flag, value in arguments(deployment).items()}
    words = ["serve", *(f"{flag}={value}" if value else flag for flag, value in given.items())]
    return words, {each["name"]: here(each["value"]) for each in container(deployment)["env"]}


def test_the_pod_serves_over_tls(mounted: Mounted) -> None:
    made = make_certificates(mounted.folder)
    shutil.copy(made.certificate, mounted.path("tls.crt"))
    shutil.copy(made.key, mounted.path("tls.key"))
    port, other = free_port(), free_port()
    words, variables = pod("tls", mounted.folder, port, other)
    unverified = ssl._create_unverified_context()  # as the kubelet asks
    base = f"https://127.0.0.1:{port}"
    with Serving(words, variables, mounted.folder) as serving:
        for probe in ("livenessProbe", "readinessProbe"):
            serving.until(base + container(DEPLOYMENTS["tls"])[probe]["httpGet"]["path"], unverified)
        answer = serving.until(f"{base}/healthz", unverified)
        assert answer["rho"]["watched"] == len(mounted.keys)
        asked = urllib.request.Request(f"{base}/v1/rho/{mounted.keys[0]}")
        asked.add_header("Forwarded", "for=10.0.0.7")  # then it is not from this machine
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked, context=unverified)
        asked.add_header("Authorization", f"Bearer {TOKEN}")
        assert urllib.request.urlopen(asked, context=unverified).status == 200
        serving.end()


def test_the_pod_answers_probes_over_grpc(mounted: Mounted) -> None:
    port, other = free_port(), free_port()
    words, variables = pod("grpc", mounted.folder, port, other)
    with Serving(words, variables, mounted.folder) as serving:
        serving.until(f"http://127.0.0.1:{port}/healthz")
        asked = container(DEPLOYMENTS["grpc"])["readinessProbe"]["grpc"]
        with grpc.insecure_channel(f"127.0.0.1:{other}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=asked["service"]), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        serving.end()


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd would hear of the service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:
        hearing.bind(str(tmp_path / "notify"))
        hearing.settimeout(SECONDS)
        yield hearing


def heard(hearing: socket.socket, wanted: str) -> None:
    while wanted not in hearing.recv(4096).decode().splitlines():
        pass


def test_the_service_serves_on_the_socket_of_systemd(mounted: Mounted, notified: socket.socket) -> None:
    """By what the unit says: command, credentials, watchdog, and no memory that is both written and run."""
    line = UNIT["ExecStart"][0].replace("%d", str(mounted.folder))
    program, *words = shlex.split(line)
    assert program == PROGRAM
    variables = dict(each.replace("%d", str(mounted.folder)).split("=", 1) for each in UNIT["Environment"])
    assert UNIT["MemoryDenyWriteExecute"] == ["yes"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        variables |= {
            "NOTIFY_SOCKET": str(mounted.folder / "notify"),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "http",
            "WATCHDOG_USEC": "3000000",
        }
        with Serving(
            [*words, "--grpc", "off"], variables, mounted.folder, listening=listening.fileno()
        ) as serving:
            heard(notified, "READY=1")
            assert serving.until(f"http://127.0.0.1:{port}/healthz")["ok"] is True
            heard(notified, "WATCHDOG=1")
            serving.process.send_signal(signal.SIGHUP)
            serving.until(f"http://127.0.0.1:{port}/livez")
            serving.process.send_signal(signal.SIGTERM)
            heard(notified, "STOPPING=1")
            assert serving.process.wait(SECONDS) == 0, serving.log.read_text()
