"""What operators hand in: KEY=FILE words, files, stdin, NDJSON lines, expectations."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from string import hexdigits
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from somactl.cli.signals import abortable
from somactl.core.text_encoding import wide_encoding, without_mark
from somactl.core.verdict import Tolerances
from somactl.errors import InvalidFile, InvalidJson, InvalidName, LimitExceeded, SomactlError, UsageError
from somactl.operations.admission import Policy
from somactl.store.contract import Expect, Expected
from somactl.suggestion import run

if TYPE_CHECKING:
    from somactl.operations.commit import Input


MAX_FILE_BYTES = (1 << 30) + (1 << 20)  # the largest array that still fits an envelope, hermitian in float32
_DIGEST_DIGITS = 32


def read_file(path: str) -> bytes:
    """The content of a file, or of stdin for `-`. Raises InvalidFile, LimitExceeded."""
    name = name_of(path)
    content = _content(path, name, MAX_FILE_BYTES)
    if not content:
        raise InvalidFile(
            f"{name}: empty",
            hint="give .npy, .npz, an envelope or JSON; without KEY=FILE, NDJSON lines on stdin",
            file=name,
        )
    if len(content) > MAX_FILE_BYTES:
        raise LimitExceeded(
            f"{name}: larger than {MAX_FILE_BYTES >> 20} MiB, more than any envelope can hold"
        )
    return content


def read_order(path: str) -> bytes:
    """A prune order from a file, or from stdin for `-`: at most one byte more than may be read of one.

    Raises InvalidFile; what is empty or too long is for the order's own parser to refuse.
    """
    from somactl.core.order import MAX_TEXT_BYTES

    return _content(path, name_of(path), MAX_TEXT_BYTES)


def read_evidence(path: str) -> bytes:
    """Evidence of an audit from a file, or from stdin for `-`. Raises InvalidFile, LimitExceeded."""
    content = _content(path, name_of(path), MAX_FILE_BYTES)
    if len(content) > MAX_FILE_BYTES:
        raise LimitExceeded(f"{name_of(path)}: larger than {MAX_FILE_BYTES >> 20} MiB")
    return content


def read_spec(path: str) -> bytes:
    """The spec of a canary check: at most one byte more than may be read of one. Raises InvalidFile."""
    from somactl.core.canary_spec_file import MAX_BYTES

    return _content(path, name_of(path), MAX_BYTES)


def read_samples(path: str) -> bytes:
    """A recording of samples, from a file or from stdin for `-`. Raises InvalidFile, LimitExceeded."""
    return read_evidence(path)


def name_of(path: str) -> str:
    """What messages call the file."""
    return "standard input" if path == "-" else path


def _content(path: str, name: str, limit: int) -> bytes:
    """Up to `limit` bytes and one more."""
    try:
        with abortable(reads=True):  # a file can be a pipe, too
            if path == "-":
                return sys.stdin.buffer.read(limit + 1)
            with open(path, "rb") as file:
                return file.read(min(limit + 1, os.fstat(file.fileno()).st_size or limit))
    except OSError as exc:
        raise InvalidFile(f"{name}: {(exc.strerror or 'cannot be read').lower()}", file=name) from None
    except ValueError:
        raise InvalidFile(f"{name!r} is no file name", file=name) from None


def parse_puts(words: Sequence[str]) -> list[Input]:
    """`KEY=FILE` words, split at the last `=`, read in order. Raises UsageError, InvalidName, InvalidFile."""
    from somactl.operations.commit import Input

    _refuse_bare_files(words)
    pairs = [_split(word) for word in words]
    _refuse_duplicates(key for key, _ in pairs)
    if sum(path == "-" for _, path in pairs) > 1:
        raise UsageError("standard input can be read for one key only")
    return [Input(key=key, content=read_file(path), source=path) for key, path in pairs]


@dataclass(frozen=True, slots=True)
class Lines:
    """What stands on the lines of a commit: what to put, what to delete, and which lines are neither."""

    puts: list[Input] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    bad: list[tuple[str, SomactlError]] = field(default_factory=list)


def parse_ndjson(content: bytes) -> Lines:
    """Lines `{"key": ..., "value": ...}`, where null deletes, and reports of `somactl get`."""
    from somactl.operations.commit import Input

    if (encoding := wide_encoding(content)) is not None:
        raise InvalidFile(f"standard input is {encoding}, not UTF-8", hint="have it written as UTF-8")
    lines, seen = Lines(), set[str]()
    for number, document in _documents(without_mark(content)):
        source = f"standard input, line {number}"
        try:
            key, value = _key_and_value(document)
        except InvalidJson as exc:
            lines.bad.append((source, exc.about(source)))
            continue
        if key in seen:
            lines.bad.append((source, _given_twice(key).about(source)))
            continue
        seen.add(key)
        if value == b"null":
            lines.deletes.append(key)
        else:
            lines.puts.append(Input(key=key, content=value, source=source))
    return lines


def _documents(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Each line with its number; a report over many lines, as `--output json` prints it, is one."""
    report: list[bytes] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if report or line == b"{":
            report.append(line)
            if line == b"}":
                yield number - len(report) + 1, b"\n".join(report)
                report = []
        elif line.strip():
            yield number, line
    if report:
        yield number - len(report) + 1, b"\n".join(report)


def _key_and_value(document: bytes) -> tuple[str, bytes]:
    """Raises InvalidJson."""
    from somactl.core.json_pointer import repeated_member
    from somactl.core.ndjson_line import split

    try:
        return split(document)
    except ValueError as exc:
        report = _got(document)
        if report is not None:
            return report
        twice = repeated_member(document)
        what = str(exc) if twice is None else f"has the member {twice!r} twice"
        raise InvalidJson(what, hint='each line is {"key": "...", "value": matrix or null}') from None


def _got(document: bytes) -> tuple[str, bytes] | None:
    """Key and envelope of a report of `get`; None for anything else. Raises InvalidJson where it has none."""
    import msgspec

    from somactl.core.json_pointer import repeated_member
    from somactl.report import GetReport

    try:
        if repeated_member(document):
            return None
        report = msgspec.json.decode(document, type=GetReport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if report.value is None:
        raise InvalidJson(f"a report of `get` without its value, which went to {report.file}")
    return report.key, report.value.encode()


def parse_expectations(words: Sequence[str]) -> Expected:
    """`N`, `INCARNATION:N`, `sha:DIGEST`, each also as `KEY=...`. Raises UsageError."""
    if not words:
        return None
    by_key: dict[str, int | Expect] = {}
    for word in words:
        key, separator, value = word.rpartition("=")
        if not separator:
            if len(words) > 1:
                raise UsageError(
                    f"--expect {word} speaks of every key: it cannot stand beside another --expect"
                )
            return _expectation(value)
        if key in by_key:
            raise UsageError(f"--expect names key {key!r} twice")
        by_key[key] = _expectation(value)
    return by_key


def parse_metadata(words: Sequence[str]) -> dict[str, str]:
    """`k=v` words, split at the first `=`. Raises UsageError."""
    metadata: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise UsageError(f"--metadata {word!r} is not of the form k=v")
        if name in metadata:
            raise UsageError(f"--metadata names {name!r} twice")
        metadata[name] = value
    return metadata


def _refuse_bare_files(words: Sequence[str]) -> None:
    """`commit *.npy` names files and no keys: say how, each file's stem standing for its key."""
    bare = [word for word in words if "=" not in word and os.path.exists(word)]
    if bare:
        named = [f"{PurePath(word).stem}={word}" if word in bare else word for word in words]
        raise UsageError(
            f"{bare[0]!r} is a file, and no key is named for it: write KEY={bare[0]}",
            next=run("commit", *named),
        )


def _split(word: str) -> tuple[str, str]:
    key, separator, path = word.rpartition("=")
    if not separator or not path:
        raise UsageError(f"{word!r} is not of the form KEY=FILE", hint="write KEY=FILE, or KEY=- for stdin")
    return key, path


def _refuse_duplicates(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise _given_twice(key)
        seen.add(key)


def _given_twice(key: str) -> InvalidName:
    return InvalidName(f"key {key!r} is given twice in one commit", hint="a commit writes each key once")


def _expectation(text: str) -> int | Expect:
    incarnation, separator, version = text.rpartition(":")
    if incarnation == "sha":
        if len(version) != _DIGEST_DIGITS or not set(version) <= set(hexdigits):
            raise UsageError(
                f"--expect {text!r}: a digest has {_DIGEST_DIGITS} hexadecimal digits",
                next=run("log", output="json"),
            )
        return Expect(content=version.lower())
    if version.isascii() and version.isdigit():
        return Expect(version=int(version), incarnation=incarnation) if separator else int(version)
    raise UsageError(f"--expect {text!r} is none of N, INCARNATION:N, sha:DIGEST")


@dataclass(frozen=True, slots=True)
class Repair:
    """The options of a command that brings matrices in."""

    on_clampable: Annotated[
        Literal["clamp", "refuse"],
        typer.Option(help="What to do with one that is negative within tolerance."),
    ] = "clamp"
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Store the nearest density matrix of a violated one.")
    ] = False
    max_move: Annotated[
        float | None, typer.Option(metavar="D", help="... if it is no farther than D (Frobenius norm).")
    ] = None
    normalize: Annotated[bool, typer.Option("--normalize", help="Divide by the trace first.")] = False
    readdress: Annotated[
        bool, typer.Option("--readdress", help="Accept an envelope written for another key.")
    ] = False

    def policy(self, tolerances: Tolerances, **more: Any) -> Policy:
        """The policy that they ask for, with `tolerances`, which a setting may give as well.

        Raises UsageError unless --clamp and --max-move are both given or neither, and the distance is one.
        """
        if self.clamp != (self.max_move is not None):
            raise UsageError("--clamp and --max-move D go together", hint="say how far a matrix may be moved")
        if self.max_move is not None and not 0 <= self.max_move < float("inf"):
            raise UsageError("--max-move wants a distance of 0 or more")
        return Policy(
            on_clampable=self.on_clampable,
            clamp=self.clamp,
            max_move=self.max_move or 0.0,
            normalize=self.normalize,
            readdress=self.readdress,
            tolerances=tolerances,
            **more,
        )
