"""What operators hand in: KEY=FILE words, files, stdin, NDJSON lines, expectations."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from somactl.cli.signals import abortable
from somactl.errors import InvalidFile, InvalidJson, InvalidName, LimitExceeded, UsageError
from somactl.store.contract import Expect, Expected

if TYPE_CHECKING:
    from somactl.operations.commit import Input


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a commit on stdin."""

    key: str
    value: msgspec.Raw


MAX_FILE_BYTES = (1 << 30) + (1 << 20)  # the largest array that still fits an envelope, hermitian in float32


def read_file(path: str) -> bytes:
    """The content of a file, or of stdin for `-`. Raises InvalidFile, LimitExceeded."""
    name = "standard input" if path == "-" else path
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

    return _content(path, "standard input" if path == "-" else path, MAX_TEXT_BYTES)


def _content(path: str, name: str, limit: int) -> bytes:
    """Up to `limit` bytes and one more."""
    try:
        if path == "-":
            with abortable():
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

    pairs = [_split(word) for word in words]
    _refuse_duplicates(key for key, _ in pairs)
    if sum(path == "-" for _, path in pairs) > 1:
        raise UsageError("standard input can be read for one key only")
    return [Input(key=key, content=read_file(path), source=path) for key, path in pairs]


def parse_ndjson(content: bytes) -> tuple[list[Input], list[str]]:
    """Puts and deletes from lines `{"key": ..., "value": ...}`; null deletes. Raises InvalidJson."""
    from somactl.operations.commit import Input

    decoder = msgspec.json.Decoder(Line)
    puts: list[Input] = []
    deletes: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        source = f"standard input, line {number}"
        try:
            parsed = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidJson(
                f"{source}: {str(exc)[:200]}", hint='each line is {"key": "...", "value": matrix or null}'
            ) from None
        value = bytes(parsed.value)
        if value == b"null":
            deletes.append(parsed.key)
        else:
            puts.append(Input(key=parsed.key, content=value, source=source))
    _refuse_duplicates([item.key for item in puts] + deletes)
    return puts, deletes


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


def _split(word: str) -> tuple[str, str]:
    key, separator, path = word.rpartition("=")
    if not separator or not path:
        raise UsageError(f"{word!r} is not of the form KEY=FILE", hint="write KEY=FILE, or KEY=- for stdin")
    return key, path


def _refuse_duplicates(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise InvalidName(
                f"key {key!r} is given twice in one commit", hint="a commit writes each key once"
            )
        seen.add(key)


def _expectation(text: str) -> int | Expect:
    incarnation, separator, version = text.rpartition(":")
    if incarnation == "sha" and version:
        return Expect(content=version.lower())
    if version.isascii() and version.isdigit():
        return Expect(version=int(version), incarnation=incarnation) if separator else int(version)
    raise UsageError(f"--expect {text!r} is none of N, INCARNATION:N, sha:DIGEST")
