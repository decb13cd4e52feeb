"""What a configuration file says, and what is said of a file that is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from somactl.config import SETTINGS, Settings, examine, load
from somactl.config_file import MOST_BYTES, read_file
from somactl.errors import ConfigurationError

SECRET = "hunter2hunter2"


def read(folder: Path, name: str, content: str | bytes) -> dict[str, str]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(str(folder / name), SETTINGS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.toml", 'store = "redis://h/2"\npsd_tolerance = 1e-8\nretry_seconds = 10\n'),
        ("c.conf", 'store = "redis://h/2"\npsd_tolerance = 1e-8\nretry_seconds = 10\n'),
        ("c.yaml", "store: redis://h/2\npsd_tolerance: 1e-8\nretry_seconds: 10\n"),
        (
            "c.yml",
            "# a comment\n---\nstore: 'redis://h/2'\npsd_tolerance: 1.0e-8\nretry_seconds: 10 # s\n...\n",
        ),
        ("C.YAML", '{store: "redis://h/2", psd_tolerance: 0.00000001, retry_seconds: 1_0}\n'),
        ("bom.yaml", "\ufeffstore: redis://h/2\npsd_tolerance: 1E-8\nretry_seconds: 10.0\n"),
    ],
)
def test_both_formats_say_the_same(tmp_path: Path, name: str, content: str) -> None:
    read(tmp_path, name, content)
    settings = load({"config": str(tmp_path / name)}, {})
    assert (settings.store, settings.tolerances.psd, settings.retry_seconds) == ("redis://h/2", 1e-8, 10.0)


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n", "---\n...\n", "{}\n"])
def test_an_empty_yaml_sets_nothing(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, "c.yaml", content) == {}
    assert load({"config": str(tmp_path / "c.yaml")}, {}) == Settings()


def test_text_stays_as_it_is_written(tmp_path: Path) -> None:
    assert read(tmp_path, "c.yaml", "namespace: 007\ncache_ttl: 1:30\n") == {
        "namespace": "007",
        "cache_ttl": "1:30",
    }
    with pytest.raises(ConfigurationError, match="cache_ttl in"):
        load({"config": str(tmp_path / "c.yaml")}, {})


BAD = [
    ("c.yaml", "store: a\nstore: b\n", "line 2: a setting is given twice"),
    ("c.toml", 'store = "a"\nstore = "b"\n', "line 2"),
    ("c.yaml", "sotre: a\n", "unknown setting 'sotre'"),
    ("c.toml", 'sotre = "a"\n', "unknown setting 'sotre'"),
    ("c.yaml", f"{SECRET}: a\n", "unknown setting"),
    ("c.yaml", "store: [a]\n", "line 1: 'store' is neither text nor a number"),
    ("c.yaml", "cache_ttl: 3\nstore:\n  url: a\n", "'store' is neither text nor a number"),
    ("c.yaml", "store: yes\n", "neither text nor a number"),
    ("c.yaml", "store: null\n", "neither text nor a number"),
    ("c.yaml", "store:\n", "neither text nor a number"),
    ("c.yaml", "store: !!python/object/apply:os.system [ls]\n", "neither text nor a number"),
    ("c.yaml", f"store: !x {SECRET}\n", "neither text nor a number"),
    ("c.yaml", "namespace: &a x\noutput: *a\n", "neither text nor a number"),
    ("c.yaml", "<<: {store: a}\n", "neither text nor a number"),
    ("c.yaml", "[store]: a\n", "no name of a setting"),
    ("c.yaml", "? {a: b}\n: c\n", "no name of a setting"),
    ("c.yaml", "!x store: a\n", "no name of a setting"),
    ("c.yaml", f"{SECRET}\n", "no list of NAME: VALUE"),
    ("c.yaml", "- store\n", "no list of NAME: VALUE"),
    ("c.yaml", "store: a\n---\ncache: b\n", "several documents"),
    ("c.yaml", f"store: '{SECRET}\n", "not YAML"),
    ("c.yaml", f"store: a: {SECRET}\n", "not YAML at line 1"),
    ("c.yaml", f"store: @{SECRET}\n", "not YAML at line 1"),
    ("c.yaml", f"\tstore: {SECRET}\n", "not YAML at line 1"),
    ("c.yaml", f"store: {SECRET}\x00\n", "not YAML"),
    ("c.yaml", f"store: {SECRET}\x1b[0m\n", "not YAML"),
    ("c.yaml", "store: *undefined\n", "neither text nor a number"),
    ("c.yaml", "[" * 60_000, "no list of NAME: VALUE"),
    ("c.yaml", "store: " + "[" * 60_000, "neither text nor a number"),
    ("c.yaml", "{" * 60_000, "no name of a setting"),
    ("c.toml", "store = " + "[" * 60_000, "nested too deeply"),
    ("c.toml", f"store = {SECRET}\n", "not TOML at line 1"),
    ("c.toml", f'store = "{SECRET}\n', "not TOML at line 1"),
    ("c.toml", "[store]\nurl = 'a'\n", "'store' is neither text nor a number"),
    ("c.toml", "store = true\n", "neither text nor a number"),
    ("c.toml", "store = 1979-05-27\n", "neither text nor a number"),
    ("c.toml", f"{SECRET} = 1\n", "unknown setting"),
    ("c.toml", f"{SECRET}\n", "not TOML"),
    ("c.toml", b"\xff\xfe", "no UTF-8 text, from byte 0 on"),
    ("c.yaml", b"\xff\xfes\x00", "no UTF-8 text, from byte 0 on"),
    ("c.toml", "#" * (MOST_BYTES + 1), "larger than 64 KiB"),
    ("c.yaml", "#" * (MOST_BYTES + 1), "larger than 64 KiB"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD, ids=range(len(BAD)))
def test_a_file_that_is_no_configuration(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, name, content)
    assert says in caught.value.message
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    found = examine({"config": str(tmp_path / name)}, {})
    assert found.file_error is not None
    assert found.settings == Settings()


def test_a_billion_laughs_are_none(tmp_path: Path) -> None:
    lines = [
        "a: &a [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    with pytest.raises(ConfigurationError):
        read(tmp_path, "c.yaml", "\n".join(lines))


@pytest.mark.parametrize("path", ["missing.toml", ".", "/dev/zero", "a\0b"])
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="configuration file"):
        read_file(path if path.startswith("/") or "\0" in path else str(tmp_path / path), SETTINGS)


@pytest.mark.parametrize(("name", "wanted"), [("c.yaml", {"yaml"}), ("c.toml", set())])
def test_yaml_is_imported_for_yaml_alone(tmp_path: Path, name: str, wanted: set[str]) -> None:
    (tmp_path / name).write_text("namespace: a\n" if wanted else 'namespace = "a"\n')
    code = (
        "import sys; from somactl.config import load; load({'config': sys.argv[1]}, {}); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert {"yaml", "tomllib"} & set(done.stdout.split()) == (wanted or {"tomllib"})
