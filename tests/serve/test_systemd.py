"""`examples/systemd`: units that systemd itself finds right and well confined, and what they start."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from somactl.config import SETTINGS, VARIABLES
from somactl.serve.systemd import Handed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/systemd"
SERVICE, SOCKET = FOLDER / "somactl-serve.service", FOLDER / "somactl-serve.socket"
GRPC = FOLDER / "somactl-serve-grpc.socket"
ANALYZE = shutil.which("systemd-analyze")
PROGRAM = "/opt/somactl/bin/somactl"
NONE = socket.socket()
MOST_EXPOSED = 15
"""Tenths, as `systemd-analyze security` counts them: 0 is best, 100 worst; what it calls OK ends at 49."""

pytestmark = pytest.mark.source
with_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def section(path: Path, name: str) -> dict[str, list[str]]:
    """Its settings: each may stand repeatedly."""
    found: dict[str, list[str]] = {}
    inside = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = line.strip("[]")
        elif inside == name and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


UNIT = section(SERVICE, "Service")


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """All units as on a machine on which somactl is installed."""
    for path in (SERVICE, SOCKET, GRPC):
        text = path.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return tmp_path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, timeout=60, check=False)


@with_systemd
@pytest.mark.parametrize("name", [SERVICE.name, SOCKET.name, GRPC.name])
def test_systemd_finds_nothing_wrong(units: Path, name: str) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", units / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@with_systemd
def test_systemd_finds_what_is_wrong(units: Path) -> None:
    """That it is silent means something."""
    path = units / SERVICE.name
    path.write_text(path.read_text().replace("NoNewPrivileges=", "NoNewPrivilege="))
    assert "NoNewPrivilege" in analyze("verify", "--man=no", "--recursive-errors=no", path).stderr


@with_systemd
def test_it_is_well_confined(units: Path) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", units / SERVICE.name)
    assert done.returncode == 0, done.stdout


CONFINED = {
    *(
        "DynamicUser",
        "ProtectHome",
        "PrivateTmp",
        "PrivateMounts",
        "PrivateDevices",
        "PrivateUsers",
        "RemoveIPC",
    ),
    *(
        "ProtectClock",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
    ),
    *(
        "ProtectControlGroups",
        "NoNewPrivileges",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ),
    *("LockPersonality", "MemoryDenyWriteExecute"),
}


def test_what_it_may_do_is_what_it_needs() -> None:
    assert {name for name, values in UNIT.items() if values == ["yes"]} == CONFINED
    assert UNIT["CapabilityBoundingSet"] == [""]
    assert UNIT["ProtectSystem"] == ["strict"]
    assert UNIT["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert UNIT["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert UNIT["OOMPolicy"] == ["continue"]  # what ran out of memory is the prover, which is started again


def test_secrets_come_as_credentials() -> None:
    credentials = {each.partition(":")[0] for each in UNIT["LoadCredential"]}
    used = set(re.findall(r"%d/(\S+)", " ".join([*UNIT["ExecStart"], *UNIT["Environment"]])))
    assert used == credentials
    known = {*VARIABLES, *(setting.variable for setting in SETTINGS.values())}
    assert {each.partition("=")[0] for each in UNIT["Environment"]} <= known


def test_it_is_given_the_time_to_drain() -> None:
    assert UNIT["Type"] == ["notify"]
    (grace,) = re.findall(r"--grace (\S+)", UNIT["ExecStart"][0])
    assert seconds(grace) < seconds(UNIT["TimeoutStopSec"][0])
    assert seconds(UNIT["WatchdogSec"][0]) >= 10
    assert UNIT["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert UNIT["RestartPreventExitStatus"] == ["2 10"]


def test_the_socket_is_that_of_the_service() -> None:
    (listens,) = section(SOCKET, "Socket")["ListenStream"]
    assert listens == "127.0.0.1:8080"  # where `--http` listens unless told
    assert SOCKET.stem == SERVICE.stem
    assert section(GRPC, "Socket")["ListenStream"] == ["127.0.0.1:8081"]
    assert section(GRPC, "Socket")["Service"] == [SERVICE.name]
    names = [Handed(section(path, "Socket")["FileDescriptorName"][0], NONE) for path in (SOCKET, GRPC)]
    assert [each.is_grpc for each in names] == [False, True]
