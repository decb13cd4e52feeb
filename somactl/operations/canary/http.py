"""Questions to a server over HTTP, asked again until it answers or patience ends."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote

from somactl.errors import ConfigurationError
from somactl.operations.canary.sources import PATIENCE_SECONDS, Unanswered
from somactl.telemetry.pushgateway import Access, Address, Client, PushFailed, parse_url

T = TypeVar("T")
AGAIN_SECONDS: Final = 0.5
_LOGIN = re.compile(r"(https?://)([^/?#@:]*)(?::([^/?#@]*))?@")


@dataclass(frozen=True, slots=True)
class _Login(Access):
    """Access with a login that a URL holds, which came from the environment."""

    login: str = ""

    def headers(self) -> dict[str, str]:
        if not self.login:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(self.login.encode()).decode()}"}


class Site:
    """A server at a URL, which may hold a login if it came from the environment.

    place is how messages call it. Raises ConfigurationError for what is no URL, SecretExposed for a login
    that stands in a spec.
    """

    def __init__(
        self, url: str, place: str, *, from_environment: bool, patience: float = PATIENCE_SECONDS
    ) -> None:
        login = ""
        if from_environment and (found := _LOGIN.match(url)):
            login = f"{unquote(found[2])}:{unquote(found[3] or '')}"
            url = found[1] + url[found.end() :]
        self.address: Address = parse_url(url, place, by_flag=False)
        self._access = _Login(self.address, login=login)
        self._patience = patience

    async def ask(self, path: str, read: Callable[[int, bytes], T]) -> T:
        """What `read` makes of status and body.

        It raises Unanswered for what is no answer; unless the question itself was refused, it is asked again
        until patience ends. Raises Unanswered.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience
        while True:
            try:
                return read(*await asyncio.to_thread(self._get, path, max(end - loop.time(), 0.1)))
            except Unanswered as exc:
                if exc.what == "refused" or loop.time() + AGAIN_SECONDS >= end:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    def _get(self, path: str, seconds: float) -> tuple[int, bytes]:
        try:
            return Client(self._access, seconds).request("GET", path)
        except PushFailed as exc:
            raise Unanswered("unreachable", f"{self.address}: {exc}") from None

    def refuse_status(self, status: int, told: str) -> None:
        """Raises Unanswered for a status that is no success."""
        said = f"{self.address} answers {status}" + (f": {told}" if told else "")
        if status >= 500 or status == 429:
            raise Unanswered("unreachable", said)
        if status >= 400:
            raise Unanswered("refused", said)
        if not 200 <= status < 300:
            raise Unanswered("unreadable", said)


def in_a_line(body: bytes) -> str:
    """The beginning of an answer, to be told in a message."""
    text = " ".join(body[:500].decode("utf-8", "replace").split())[:160]
    return "".join(c for c in text if c.isprintable())


def no_url(word: str) -> ConfigurationError:
    return ConfigurationError(
        f"{word!r} is no http or https URL", hint="write https://HOST/PATH, or env:NAME"
    )
