"""A Pushgateway, and a Prometheus that scrapes it and answers queries."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from servers.certificates import Certificates
from servers.process import Server, ServerFailed, find

SCRAPE = "100ms"
SETTLE_SECONDS = 20.0
# User, password, and its bcrypt digest.
LOGIN = ("pusher", "correct horse", "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2")


class Pushgateway(Server):
    """It keeps nothing on disk. With `tls` it speaks nothing else, and demands a certificate of the client's
    where `client_ca` says so; with `login` (user, digest) it demands that."""

    program: ClassVar[str] = "prometheus-pushgateway"
    ready: ClassVar[str] = "Listening on"
    clash: ClassVar[str] = "address already in use"

    def __init__(
        self,
        folder: Path,
        *,
        tls: Certificates | None = None,
        demands_certificate: bool = False,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.executable = find(self.program)
        super().__init__(folder)
        self.tls, self.login, self.demands_certificate = tls, login, demands_certificate

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        config: dict[str, Any] = {}
        if self.tls is not None:
            config["tls_server_config"] = {
                "cert_file": str(self.tls.certificate),
                "key_file": str(self.tls.key),
            }
            if self.demands_certificate:
                config["tls_server_config"] |= {
                    "client_auth_type": "RequireAndVerifyClientCert",
                    "client_ca_file": str(self.tls.ca),
                }
        if self.login is not None:
            config["basic_auth_users"] = {self.login[0]: self.login[1]}
        (self.folder / "web.json").write_text(json.dumps(config))  # which is YAML too

    def command(self) -> list[str | Path]:
        return [
            self.executable,
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--web.config.file={self.folder / 'web.json'}",
        ]

    def groups(self) -> list[dict[str, Any]]:
        """What it holds, group by group: the labels, and each family by its name."""
        return list(_get(f"{self.url}/api/v1/metrics")["data"])

    def values(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of a family that have these labels, by their other ones."""
        found = {}
        for group in self.groups():
            for metric in group.get(name, {}).get("metrics", []):
                own = {key: value for key, value in metric["labels"].items() if value}
                if labels.items() <= own.items():
                    rest = tuple(sorted(own.keys() - labels.keys()))
                    found[tuple((key, own[key]) for key in rest)] = float(metric["value"])
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of a family that has these labels; None where there is none."""
        found = list(self.values(name, **labels).values())
        assert len(found) <= 1, found
        return found[0] if found else None

    def wipe(self) -> None:
        """Delete every group; the gateway does so in its own time, in the order in which it was asked."""
        for group in self.groups():
            path = "/".join(
                f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode()}"
                for name, value in sorted(group["labels"].items(), key=lambda each: each[0] != "job")
            )
            request = urllib.request.Request(f"{self.url}/metrics/{path}", method="DELETE")
            urllib.request.urlopen(request, timeout=10).close()
        while self.groups():
            time.sleep(0.005)


class Prometheus(Server):
    """It scrapes one Pushgateway ten times a second."""

    program: ClassVar[str] = "prometheus"
    ready: ClassVar[str] = "Server is ready to receive web requests"
    clash: ClassVar[str] = "address already in use"

    def __init__(self, folder: Path, gateway: Pushgateway) -> None:
        self.executable = find(self.program)
        super().__init__(folder)
        self.gateway = gateway

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        target = {"targets": [f"127.0.0.1:{self.gateway.port}"]}
        job = {"job_name": "pushgateway", "honor_labels": True, "static_configs": [target]}
        config = {"global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE}, "scrape_configs": [job]}
        (self.folder / "prometheus.json").write_text(json.dumps(config))

    def command(self) -> list[str | Path]:
        return [
            self.executable,
            f"--config.file={self.folder / 'prometheus.json'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def ask(self, query: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The answer to an instant query: labels -> value, without those of the scrape."""
        data = _get(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": query}))["data"]
        if data["resultType"] == "scalar":
            return {(): float(data["result"][1])}
        return {
            tuple(sorted((k, v) for k, v in each["metric"].items() if k != "instance")): float(
                each["value"][1]
            )
            for each in data["result"]
        }

    def settle(self) -> None:
        """Return once it has scraped what the gateway holds now."""
        pushed = max([0.0, *self.gateway.values("push_time_seconds").values()])
        wanted = {tuple(sorted(group["labels"].items())) for group in self.gateway.groups()}
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            found = self.ask("push_time_seconds")
            there = {tuple(each for each in labels if each[0] != "__name__") for labels in found}
            newest = max([0.0, *found.values()])
            if there == wanted and abs(newest - pushed) < 1e-6:
                return
            time.sleep(0.05)
        raise ServerFailed(f"prometheus has not scraped the gateway within {SETTLE_SECONDS} s")


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
