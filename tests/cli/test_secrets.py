"""A password is shown nowhere, wherever it stands in an address that cannot be used."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from somactl.address import public
from somactl.cli.app import run
from somactl.errors import ConfigurationError
from somactl.store.redis import failures as redis_failures

SECRET = "Hunter2Hunter2"
ROUNDS = 20_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 600
FORMS = [
    "host=h password={}", "host=h user=u password='{}' dbname=d",
    "h:6380,password={},ssl=True,abortConnect=False", "redis:{}@h", "redis:u:{}@h", "redis:/:{}@h/0",
    "redis:///:{}@h", "redis://u:{}@h:65536/0", "redis://u:{}@h/x", "redis://u:{}@h?dbb=1",
    "redis://u:{}/x@h", "redis://u:{}?x@h", "redis://u:{}#x@h", "redis://u:x@{}@h", "redis://u:%{}@h",
    "redis://h/{}", "redis://h:{}", "redis://h?db={}", "redis://h?password={}&x=1", "redis://h?{}",
    "redis://h?{}=1", "redis://h?x={}", "redis://h#{}", "rediss://h?ssl_cert_reqs={}", "unix:{}",
    "unix://{}/s", "unix:///s?db={}", "redis+cluster://u:{}@h/3", "redis+sentinel://u:{}@h/0",
    "valkey://u:{}@h", "{}://h", "{}", "//u:{}@h", "u:{}@h:6379", "postgresql:/u:{}@h/d",
    "postgresql:u:{}@h/d", "postgresql://u:{}@/d", "postgresql:///d?password={}", "postgresql://h:{}/d",
    "postgresql://u:{}@h/d?work_mem=1", "postgresql://u:{}@h:65536/d", "postgresql://u:{}@h/d?sslmode={}",
    "postgresql://h/d/{}", "postgresql://h/d?host={}", "postgresql://h/d?{}=1",
    "postgresql://u:p@h/d?password={}", "postgresql://h/d?pool_size={}", "postgresql+asyncpg://u:{}@h/d",
    "jdbc:postgresql://h/d?user=u&password={}", "Host=h;Username=u;Password={};Database=d",
    "sqlite:///x?key={}", "sqlite://u:{}@/x", "sqlite:{}", "mysql://u:{}@h/d", "https://u:{}@h/d",
    "http://h/?token={}", "password={}", "{}@h", "u/{}@h", "amqp://u:{}@h", "file://{}", "redis://[{}]",
    "redis://h:1:{}", " redis://u:{}@h", "redis://u:{}@h\n", "redis://u:{}@h\x1b[0m",
    "redis://u:{}@h\udcff",
]  # fmt: skip
CHANNELS = (
    "SOMACTL_STORE",
    "SOMACTL_CACHE",
    "POSTGRES_URL",
    "REDIS_URL",
    "--store",
    "--cache",
    "toml",
    "yaml",
    "env",
    "SOURCE",
)
COMMANDS = (
    ["ls"],
    ["doctor"],
    ["config"],
    ["config", "-o", "json"],
    ["init", "-o", "ndjson"],
    ["get", "k"],
    ["show", "k"],
)


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process, in an empty folder; the code, and all that was written."""
    monkeypatch.chdir(tmp_path)
    for variable in [
        v for v in os.environ if v.startswith(("SOMACTL_", "PG", "POSTGRES_", "REDIS_", "SFM_"))
    ]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SOMACTL_RETRY_SECONDS", "0")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", _nowhere)

    def call(*words: str, **environment: str) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = run(list(words))
        out, err = capfdbinary.readouterr()
        return code, (out + err).decode(errors="surrogateescape")

    return call


def _nowhere(*_: Any, **__: Any) -> NoReturn:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def say(call: Callable[..., tuple[int, str]], text: str, channel: str, command: list[str]) -> tuple[int, str]:
    """Run `command` with `text` as an address that comes this way."""
    if channel in ("toml", "yaml"):
        quoted = '"' + "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in text) + '"'
        name = f"conf.{channel}"
        Path(name).write_text(f"store = {quoted}\n" if channel == "toml" else f"store: {quoted}\n")
        return call(*command, "--config", name)
    if channel == "env":
        return call("migrate-json", "env:OLD", "--dry-run", OLD=text)
    if channel == "SOURCE":
        return call("migrate-json", "--dry-run", "--", text)
    if channel.startswith("--"):
        return call(*command, f"{channel}={text}")
    return call(*command, **{channel: text})


@pytest.mark.parametrize("channel", CHANNELS)
def test_what_cannot_be_read_is_shown_nowhere(terminal: Callable[..., tuple[int, str]], channel: str) -> None:
    for number, form in enumerate(FORMS):
        text = form.replace("{}", SECRET)
        assert SECRET not in public(text)
        if "\udcff" in text and channel in ("toml", "yaml"):
            continue
        command = COMMANDS[number % len(COMMANDS)]
        code, said = say(terminal, text, channel, command)
        assert SECRET not in said, (text, command, said)
        assert "Traceback" not in said
        visible = channel == "SOURCE" or channel.startswith("--")
        assert code in ((2, 10, 11) if visible else (10,)), (text, said)
    assert not Path("somactl.db").exists()


def test_no_mutation_of_an_address_shows_its_password(terminal: Callable[..., tuple[int, str]]) -> None:
    chance = random.Random(9)
    for _ in range(ROUNDS):
        form = list(chance.choice(FORMS).replace("{}", "\0"))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(form))
            edit = chance.randrange(3)
            if edit == 0 and form[place] != "\0":
                del form[place]
            elif edit == 1:
                form.insert(place, chance.choice(list(":/@?#&=%,;[] +'\"\\0aé")))
            else:
                form[place:place] = chance.choice(
                    ["://", "redis", "postgresql:", "password=", "@h", "%40", "sqlite:///"]
                )
        text = "".join(form).replace("\0", SECRET)
        if "\0" in text or SECRET in public(text):
            continue
        code, said = say(terminal, text, chance.choice(CHANNELS), chance.choice(COMMANDS))
        assert SECRET not in said, (text, said)
        assert "Traceback" not in said, (text, said)
        assert code != 1


@pytest.mark.parametrize(
    "words",
    [
        ["ls", f"redis://u:{SECRET}@h"],
        ["ls", f"host=h password={SECRET}"],
        ["ls", f"h:1,password={SECRET}"],
        [f"redis://u:{SECRET}@h", "ls"],
        [f"postgresql:/u:{SECRET}@h/d"],
        ["get", f"redis://u:{SECRET}@h"],
        ["get", "--quiet", f"redis://u:{SECRET}@h"],
        ["commit", f"a=redis://u:{SECRET}@h"],
        ["verify-psd", "--file", f"postgresql://u:{SECRET}@h/d"],
        ["ls", f"--sotre=redis://u:{SECRET}@h"],
        ["init", "--keep-days", f"redis://u:{SECRET}@h"],
        ["init", f"--keep-days=postgresql:/u:{SECRET}@h"],
        ["ls", "-o", f"redis://u:{SECRET}@h"],
        ["ls", "-n", f"redis://u:{SECRET}@h"],
        ["migrate-json", f"redis://u:{SECRET}@h"],
        ["migrate-json", "a.json", f"redis://u:{SECRET}@h"],
        ["migrate-json", f"env:redis://u:{SECRET}@h"],
        ["ls", "--store", f"redis://u:{SECRET}@h"],
        ["ls", "--cache", f"redis://u:{SECRET}@h"],
    ],
)
def test_an_address_in_a_wrong_place_is_not_repeated(
    terminal: Callable[..., tuple[int, str]], words: list[str]
) -> None:
    code, said = terminal(*words)
    assert code in (2, 10)
    assert SECRET not in said


@pytest.mark.parametrize(
    "name", ["SOMACTL_NAMESPACE", "SOMACTL_OUTPUT", "SOMACTL_PSD_TOLERANCE", "SFM_RHO_CACHE_TTL"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_in_a_wrong_variable_is_not_repeated(
    terminal: Callable[..., tuple[int, str]], name: str, command: list[str]
) -> None:
    if name == "SOMACTL_OUTPUT":
        command = [word for word in command if word not in ("-o", "json", "ndjson")]  # which would win
    code, said = terminal(*command, **{name: f"redis://u:{SECRET}@h"})
    assert code == 10
    assert SECRET not in said
    assert name in said


@pytest.mark.parametrize(
    "variable", ["PGPASSWORD", "PGSSLROOTCERT", "PGPORT", "PGSSLMODE", "PGTARGETSESSIONATTRS"]
)
def test_what_the_driver_reads_by_itself_is_not_repeated(
    terminal: Callable[..., tuple[int, str]], variable: str
) -> None:
    for query in ("", "?sslmode=require"):
        code, said = terminal(
            "ls", SOMACTL_STORE=f"postgresql://u@127.0.0.1:1/d{query}", **{variable: SECRET}
        )
        assert code in (10, 13)
        assert SECRET not in said.replace(f"{SECRET}, which is no file", "")


def test_a_bug_shows_no_address(
    terminal: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/d"

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"about {url}")

    monkeypatch.setattr("somactl.runtime.open_store", fail)
    code, said = terminal("ls", SOMACTL_STORE=url)
    assert (code, "RuntimeError" in said, SECRET in said) == (1, True, False)


def test_a_server_that_repeats_a_command_does_not_repeat_its_password() -> None:
    from redis.exceptions import ResponseError

    text = f"unknown command 'AUTH', with args beginning with: 'u' '{SECRET}' "
    error = redis_failures.translate(ResponseError(text), "redis://h")
    assert isinstance(error, ConfigurationError)
    assert SECRET not in f"{error} {error.hint} {error.facts}"
