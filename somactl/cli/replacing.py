"""A file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from types import TracebackType
from typing import BinaryIO, Self

from somactl.errors import InvalidFile


class Replacing:
    """A new `file` that takes the place of the one at `path` if it is to be kept. Raises InvalidFile.

    Where `path` is a link, of the file that it leads to. What exists and is no file stays as it is.
    """

    def __init__(self, path: str) -> None:
        self._name = path
        self._path = os.path.realpath(path)
        self._temporary = f"{os.path.dirname(self._path)}/.somactl-{secrets.token_hex(8)}"
        self._keep = False

    def keep(self) -> None:
        self._keep = True

    def __enter__(self) -> Self:
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(self._name).st_mode):
                    raise InvalidFile(f"{self._name}: cannot be written: it is no ordinary file")
            # As every new file has it: 0666, and of these what the umask leaves.
            handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as exc:
            raise self._failed(exc) from None
        self.file: BinaryIO = os.fdopen(handle, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.file.close()
            if self._keep and exc is None:
                os.replace(self._temporary, self._path)
                return
        except OSError as error:
            os.unlink(self._temporary)
            raise self._failed(error) from None
        os.unlink(self._temporary)

    def _failed(self, error: OSError) -> InvalidFile:
        return InvalidFile(f"{self._name}: cannot be written: {error.strerror}")
