"""Pushing to a real Pushgateway, and to servers that are none, or fail."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from servers.certificates import Certificates, make_certificates
from servers.process import free_port
from servers.prometheus import LOGIN, Pushgateway
from somactl.errors import ConfigurationError, SecretExposed, UsageError
from somactl.telemetry.observe import Sample
from somactl.telemetry.pushgateway import Access, Gateway, PushFailed, check_label, parse_url
from somactl.telemetry.registry import exposition
from tests.telemetry.silent import Answering, silent

LAST_RUN = "somabrain_job_last_run_timestamp_seconds"
SUCCESS = "somabrain_rho_last_success_timestamp_seconds"
GROUP = {"job": "verify-psd", "namespace": "default"}


def access(url: str, **options: str) -> Access:
    return Access(parse_url(url, "--gateway", by_flag=True), **options)


def text(**values: float) -> bytes:
    return exposition([Sample(f"somabrain_{name}", value) for name, value in values.items()])


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"shard": "2/8"},
        {"shard": "2-of-8"},
        {"namespace": ".."},
        {"namespace": "."},
        {"job": "nightly audit"},
        {"job": "50% a=b&c?d#e;f"},
        {"job": "metrics/job/other"},
        {"job": "/"},
        {"job": "%2e%2e"},
        {"job": "a+b"},
    ],
)
def test_groups_arrive_under_exactly_their_labels(pushgateway: Pushgateway, labels: dict[str, str]) -> None:
    group = {**GROUP, **labels}
    gateway = Gateway(access(pushgateway.url))
    gateway.push(group, text(job_last_run_timestamp_seconds=12.5))
    (found,) = pushgateway.groups()
    assert found["labels"] == group
    assert gateway.last_runs() == {frozenset(group.items()): 12.5}
    gateway.delete({**group, "namespace": "other"})
    gateway.delete(group)
    deadline = time.monotonic() + 10  # it deletes after it has answered, in the order of the requests
    while pushgateway.groups() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not pushgateway.groups()


def test_what_a_push_does_not_name_stands(pushgateway: Pushgateway) -> None:
    gateway = Gateway(access(pushgateway.url))
    gateway.push(GROUP, text(job_last_run_timestamp_seconds=1.0, rho_last_success_timestamp_seconds=1.0))
    gateway.push(GROUP, text(job_last_run_timestamp_seconds=2.0))
    assert pushgateway.value(SUCCESS) == 1.0
    assert pushgateway.value(LAST_RUN) == 2.0


def test_nothing_is_pushed_that_was_not_set() -> None:
    assert exposition([]) == b""
    assert b"success" not in text(job_last_run_timestamp_seconds=1.0)


def test_not_a_number_arrives(pushgateway: Pushgateway) -> None:
    Gateway(access(pushgateway.url)).push(GROUP, text(rho_cycle_seconds=math.nan))
    assert math.isnan(pushgateway.value("somabrain_rho_cycle_seconds") or 0.0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_tls_with_a_certificate_of_the_clients_and_a_login(
    tmp_path: Path, certificates: Certificates
) -> None:
    user, password, digest = LOGIN
    (tmp_path / "password").write_text(password + "\n")
    ours = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    login = {"user": user, "password_file": str(tmp_path / "password")}
    with Pushgateway(
        tmp_path / "gateway", tls=certificates, demands_certificate=True, login=(user, digest)
    ) as server:
        trusted = {"ca": str(certificates.ca)}
        Gateway(access(server.url, **trusted, **ours, **login)).push(GROUP, text(rho_psd_ok=1.0))
        for options, why in [
            ({**ours, **login}, "its certificate is not trusted"),
            ({**trusted, **login}, "certificate required|alert|reset|closed|broken pipe|eof occurred"),
            ({**trusted, **ours}, "it answers 401"),
            ({**trusted, **ours, **login, "password_file": str(tmp_path / "none")}, "no such file"),
            ({**trusted, **ours, **login, "password_file": str(certificates.ca)}, "it answers 401"),
            ({**ours, **login, "ca": str(tmp_path / "password")}, "SSLError|certificate|PEM"),
        ]:
            with pytest.raises(PushFailed, match=f"(?i){why}"):
                Gateway(access(server.url, **options)).push(GROUP, text(rho_psd_ok=1.0))
        by_name = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(PushFailed, match="its certificate is not trusted"):
            Gateway(access(by_name, **trusted, **ours, **login)).push(GROUP, text(rho_psd_ok=1.0))


def test_a_gateway_that_is_down() -> None:
    with pytest.raises(PushFailed, match=r"^connection refused$"):
        Gateway(access(f"http://127.0.0.1:{free_port()}")).push(GROUP, text(rho_psd_ok=1.0))


def test_all_together_ends_in_time_with_a_server_that_falls_silent() -> None:
    with silent() as url:
        gateway = Gateway(access(url), seconds=0.5)
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(PushFailed, match=r"no answer within 0.5 s"):
                gateway.push(GROUP, text(rho_psd_ok=1.0))
        assert time.monotonic() - began < 1.0


def test_a_server_that_sends_a_byte_now_and_then_is_silent_too() -> None:
    with Answering(drips=True) as server:
        began = time.monotonic()
        with pytest.raises(PushFailed, match=r"no answer within 0.6 s"):
            Gateway(access(server.url), seconds=0.6).push(GROUP, text(rho_psd_ok=1.0))
        assert time.monotonic() - began < 1.0


def test_what_the_gateway_takes_offence_at_is_said_in_one_line(pushgateway: Pushgateway) -> None:
    with pytest.raises(PushFailed) as caught:
        Gateway(access(pushgateway.url)).push(GROUP, b"rubbish { \n")
    assert caught.value.refused
    assert str(caught.value).startswith("it answers 400: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", ["302 Found", "404 Not Found", "503 Service Unavailable"])
def test_other_answers_say_nothing_about_what_was_sent(status: str) -> None:
    with Answering(status, b"line one\nline \x1b[31mtwo") as server:
        with pytest.raises(PushFailed, match=f"^it answers {status[:3]}: line one line \\[31mtwo$") as caught:
            Gateway(access(server.url)).push(GROUP, text(rho_psd_ok=1.0))
        assert not caught.value.refused
        assert len(server.requests) == 1


def test_a_server_that_lists_no_groups() -> None:
    for body in (b"", b"{}", b"[]", b'{"data": [{"labels": {}, "%s": 3}]}' % LAST_RUN.encode()):
        with Answering(body=body) as server, pytest.raises(PushFailed, match="does not list its groups"):
            Gateway(access(server.url)).last_runs()


def test_a_page_instead_of_a_gateways_answer_is_no_success() -> None:
    """A proxy that asks for a login, say: what was to be pushed is kept nowhere."""
    with (
        Answering(page=b"<html>log in</html>") as server,
        pytest.raises(PushFailed, match="kept there") as exc,
    ):
        Gateway(access(server.url)).push(GROUP, b"x 1\n")
    assert not exc.value.refused


def test_a_gateway_behind_a_path() -> None:
    with Answering() as server:
        Gateway(access(f"{server.url}/push/")).push(GROUP, b"x 1\n")
        assert server.requests == ["POST /push/metrics/job/verify-psd/namespace/default HTTP/1.1"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://gateway", "http://gateway:80"),
        ("https://gateway.example/", "https://gateway.example:443"),
        ("http://[::1]:9091", "http://[::1]:9091"),
        ("http://10.0.0.1:9091/a/b", "http://10.0.0.1:9091/a/b"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert str(parse_url(url, "--gateway", by_flag=True)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gateway:9091",
        "ftp://gateway",
        "http://",
        "http://a:0",
        "http://a:70000",
        "http://a b",
        "http://a?x",
    ],
)
def test_what_is_no_url_is_not_repeated(url: str) -> None:
    for by_flag, error in ((True, UsageError), (False, ConfigurationError)):
        with pytest.raises(error, match=r"^here: this is no URL of a server$"):
            parse_url(url, "here", by_flag=by_flag)


@pytest.mark.parametrize("url", ["http://me:secret@gateway:9091", "https://secret@gateway", "x://a:b@c"])
def test_a_login_in_a_url_is_refused(url: str) -> None:
    for by_flag in (True, False):
        with pytest.raises(SecretExposed) as caught:
            parse_url(url, "--gateway", by_flag=by_flag)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "ünlauter", "a\nb", "a\x7f"])
def test_labels_that_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="empty, or not printable ASCII"):
        check_label("--job", value)
