"""Completion in real shells: what Tab makes of a line is what the command then gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.redis import RedisServer
from somactl.cli.app import COMMANDS, load
from somactl.cli.completion import STORED, before_cursor, candidates, continued, typed_words
from support.terminal import Typing
from tests.cli.conftest import Shell, environment, with_somactl

BREAKS = " \t\n\"'><=;|&(:"  # of bash, as it comes
KEYS = [
    "acme:(9.0, 14.0, 43.0):data",
    "acme:[x] $HOME `id` \"both' \\ends",
    "plain",
    "-dash",
    "~tilde#hash",
    "weiß/über",
]
START = {
    "bash": (["bash", "--noprofile", "--norc", "-i"], "source <(somactl completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u; source <(somactl completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "somactl completion fish | source"),
}


@pytest.fixture
def filled(shell: Shell) -> Shell:
    lines = "".join(json.dumps({"key": key, "value": [[1.0]]}) + "\n" for key in KEYS)
    shell.ok("commit", stdin=lines.encode())
    return shell


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a store, to work in."""
    folder = tmp_path_factory.mktemp("tenants")
    shell = Shell(folder)
    lines = "".join(json.dumps({"key": key, "value": [[1.0]]}) + "\n" for key in KEYS)
    for namespace in ("default", "other-tenant"):
        shell.ok("commit", "-n", namespace, stdin=lines.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("SOMACTL_")]:
            patch.delenv(name)
        yield folder


def answer(shell: Shell, *arguments: str) -> list[str]:
    return shell.ok("--complete", *arguments).text.splitlines()


def offered(shell: Shell, line: str) -> list[str]:
    return answer(shell, "bash", BREAKS, line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("somactl comp", ["compact", "completion"]),
        ("somactl --store sqlite:///somactl.db -q ver", ["verify-psd"]),
        ("somactl ls --na", ["--namespace"]),
        ("somactl --na", ["--namespace"]),
        ("somactl -o ", ["table", "json", "ndjson"]),
        ("somactl ls --output=nd", ["--output=ndjson"]),
        ("X=1 somactl ls -o j", ["json"]),
        ("somactl commit --layout f", ["full", "factor"]),
        ("somactl completion ", ["bash", "zsh", "fish"]),
        ("somactl events e", ["enable"]),
        ("somactl ls -n ", ["default", "other-tenant"]),
        ("somactl explain outcome", ["outcome-unknown"]),
        ("somactl ls --namespace=ot", ["--namespace=other-tenant"]),
        ("somactl show pl", ["plain"]),
        ("somactl -n other-tenant show pl", ["plain"]),
        ("somactl -n absent show pl", []),
        ("somactl --store sqlite:///missing.db show pl", []),
        ("somactl --store nonsense show pl", []),
        ("somactl show -- -", ["-dash"]),
        ("somactl verify-psd plain weiß", ["weiß/über"]),
        ("somactl nothing ", []),
    ],
)
def test_what_is_offered(tenants: Path, line: str, words: list[str]) -> None:
    found = typed_words(line, BREAKS)
    before, word = before_cursor(found)
    answer = candidates(before, word.value)
    assert (answer.mode, [*answer.words]) == ("words", words)
    assert not (tenants / "missing.db").exists()


def test_files_are_left_to_the_shell(filled: Shell) -> None:
    for line in (
        "somactl verify-psd --file ",
        "somactl --config ",
        "somactl commit a=",
        "somactl get a --to x",
    ):
        assert offered(filled, line) == ["files"], line
    assert offered(filled, "somactl commit pl") == ["open", "plain="]


def test_deleted_keys_are_offered_where_they_can_be_brought_back(filled: Shell) -> None:
    commit_id = filled.ok("rm", "plain", "-o", "json").json["commit_id"]
    assert offered(filled, "somactl restore pl") == offered(filled, "somactl log pl") == ["words", "plain"]
    assert offered(filled, "somactl show pl") == ["words"]
    assert commit_id in offered(filled, "somactl restore --commit ")
    assert commit_id in offered(filled, "somactl status ")


def test_more_keys_than_are_shown_never_complete_to_a_part_of_them(shell: Shell) -> None:
    lines = "".join(f'{{"key": "k{i:04}", "value": [[1.0]]}}\n' for i in range(1200))
    shell.ok("commit", stdin=lines.encode())
    words = offered(shell, "somactl get k")[1:]
    assert len(words) == 501
    assert "k" in words  # so that no more than what was typed is common to all
    assert offered(shell, "somactl get k11")[1] == "k1100"


def test_every_argument_that_names_something_stored_is_completed() -> None:
    import inspect
    from typing import get_args

    for name in COMMANDS:
        for parameter in inspect.signature(load(name).callback).parameters.values():
            info = get_args(parameter.annotation)[1:]
            metavar = str(getattr(info[0], "metavar", "")) if info else ""
            if metavar.strip("[].") in ("KEY", "COMMIT_ID", "KEY=FILE"):
                assert parameter.name in {*STORED, "puts"}, f"{name}: {parameter.name}"


def test_a_server_that_does_not_answer_costs_two_seconds_and_no_word(shell: Shell, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        words = ["somactl", "--store", server.url, "get", ""]
        assert offered(shell, " ".join(words)) == ["words"]
        server.pause()
        result = shell("--complete", "bash", BREAKS, " ".join(words))
        server.resume()
    assert (result.code, result.text, result.err) == (0, "", "")


def test_no_line_ends_in_an_error(shell: Shell) -> None:
    for arguments in ([], ["csh", ""], ["bash", BREAKS, "somactl get 'a\\"], ["fish", "'"]):
        result = shell("--complete", *arguments)
        assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_what_is_inserted_reads_as_the_key(quote: str) -> None:
    lines, keys = [], []
    for key in KEYS:
        for length in (0, 1, 6):
            begun = key[:length]
            if quote and (quote in begun or set(begun) & set("\\$`")):
                continue
            typed = quote + (begun if quote else re.sub(r"(\W)", r"\\\1", begun))
            word = typed_words(f"somactl get {typed}", BREAKS)[-1]
            assert word.value == begun
            insert = continued(word, key)
            assert insert is not None
            # bash keeps what stands before the last break that is not quoted, or the open quote.
            lines.append((quote if word.quote else _kept(typed)) + insert + word.quote)
            keys.append(key)
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {' '.join(lines)}"], capture_output=True, text=True, check=True
    )
    assert read.stdout.splitlines() == keys


def _kept(raw: str) -> str:
    end, index = 0, 0
    while index < len(raw):
        if raw[index] == "\\":
            index += 2
            continue
        if raw[index] in BREAKS:
            end = index + 1
        index += 1
    return raw[:end]


@pytest.fixture(params=START)
def typing(request: pytest.FixtureRequest, filled: Shell) -> Iterator[Typing]:
    words, source = START[request.param]
    env = with_somactl(environment()) | {
        "HOME": str(filled.folder),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "PS1": "",
    }
    terminal = Typing(words, filled.folder, env)
    terminal.type(f"{source}\r")
    terminal.type("echo ready'-'now\r")
    terminal.shows("ready-now")
    yield terminal
    terminal.close()


TYPED = [
    ("acme:\\(9", KEYS[0]),
    ("'acme:(9", KEYS[0]),
    ('"acme:(9', KEYS[0]),
    ("acme:\\[", KEYS[1]),
    ("'acme:[", KEYS[1]),
    ("pl", KEYS[2]),
    ("we", KEYS[5]),
]


def test_tab_in_a_real_shell(typing: Typing, filled: Shell) -> None:
    for number, (typed, key) in enumerate(TYPED):
        done = filled.folder / f"done-{number}"
        typing.type(f"somactl get {typed}\t --to out.env && echo x >{done.name}\r")
        typing.until(done.exists)
        filled.ok("commit", f"{key}=out.env")  # which refuses the envelope of any other key
    filled.save("a file.npy", [[1.0]])
    typing.type("somactl verif\t--fil\ta\\ fi\t--outp\tndj\t>report && echo x >done-file\r")
    typing.until((filled.folder / "done-file").exists)
    assert json.loads((filled.folder / "report").read_text().splitlines()[0])["source"] == "a file.npy"
    filled.save("matrix.npy", [[1.0]])
    typing.type("somactl commit pla\tmatr\t -o json >report && echo x >done-put\r")
    typing.until((filled.folder / "done-put").exists)
    assert [item["key"] for item in json.loads((filled.folder / "report").read_text())["items"]] == ["plain"]
