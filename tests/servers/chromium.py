"""A headless Chromium: renders a page at a width, light or dark, with scripts off, and tells what it sees.

    with Chromium(folder) as browser, browser.open(url, width=360, dark=True) as page:
        page.screenshot(Path("page.png"))
        assert page.messages == []
        assert ("heading", "Watched keys") in page.accessible()

It speaks the DevTools protocol over a pipe, and ends with this process, however that ends.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from servers.process import ServerFailed, ServerMissing, find, private_folder, remove_folder

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
ANSWER_SECONDS = 60.0
OPTIONS = (
    "--headless",
    "--no-sandbox",  # which needs rights that a container does not have; it sees pages of the tests alone
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
# It reads from 3 and writes to 4.
START = 'exec "$0" "$@" 3</dev/fd/{} 4>/dev/fd/{}'


def find_chromium() -> Path:
    for program in PROGRAMS:
        try:
            return find(program)
        except ServerMissing:
            continue
    raise ServerMissing(f"{PROGRAMS[0]} is not installed: run `make servers`")


class Chromium:
    """One browser; each page that it opens shares nothing with any other."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.program = find_chromium()
        self.log = folder / "chromium.log"
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}
        self._received = b""

    def __enter__(self) -> Self:
        self._folder = private_folder()
        own = f"--user-data-dir={self._folder}"
        theirs, self._commands = _pipe()
        self._answers, their_answers = _pipe()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", START.format(theirs, their_answers), self.program, *OPTIONS, own],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs, their_answers),
                start_new_session=True,
            )
        os.close(theirs)
        os.close(their_answers)
        try:
            self.version = self.call("Browser.getVersion")["product"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        os.close(self._commands)  # which ends it
        os.close(self._answers)
        try:
            self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        remove_folder(self._folder)

    def open(
        self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False, scripts: bool = False
    ) -> Page:
        """Return once the page and what it refers to have loaded; close it by leaving its `with`."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        page.prepare(width, height, dark, scripts)
        page.go(url)
        return page

    def close_page(self, page: Page) -> None:
        self.call("Target.disposeBrowserContext", browserContextId=page.context)
        del self._pages[page.session]

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol; raises ServerFailed with what is wrong."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers.extend(each for each in self._batch if each.get("id") == number)
            return bool(answers)

        self.wait(answered, method)
        if "error" in answers[0]:
            raise ServerFailed(f"{method}: {answers[0]['error']}")
        return dict(answers[0]["result"])

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Take what arrives until `done`; raises ServerFailed where that takes too long."""
        deadline = time.monotonic() + ANSWER_SECONDS
        self._batch: list[dict[str, Any]] = []
        while not done():
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise ServerFailed(f"chromium: {what} has no answer; its log ends:\n{self._log_tail()}")
            *complete, self._received = (self._received + data).split(b"\0")
            self._batch = [json.loads(each) for each in complete]
            for each in self._batch:
                if "method" in each and each.get("sessionId") in self._pages:
                    self._pages[each["sessionId"]].take(each["method"], each["params"])

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class Page:
    """One tab.

    requests  the URLs of all that it asked for, in order
    messages  what it wrote to the console: errors, warnings, refusals of its policy
    loads     how often it was loaded
    """

    def __init__(self, browser: Chromium, session: str, context: str) -> None:
        self.session, self.context = session, context
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.loads = 0
        self._browser = browser

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._browser.close_page(self)

    def prepare(self, width: int, height: int, dark: bool, scripts: bool) -> None:
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.choose(dark=dark)
        self.resize(width, height)

    def choose(self, *, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def resize(self, width: int, height: int = 800) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def go(self, url: str) -> None:
        begin = self.loads
        answer = self._call("Page.navigate", url=url)
        if "errorText" in answer:
            raise ServerFailed(f"{url}: {answer['errorText']}")
        self.wait_for_load(begin)

    def wait_for_load(self, seen: int) -> None:
        """Return once it was loaded more often than `seen`."""
        self._browser.wait(lambda: self.loads > seen, "loading")

    def run(self, expression: str) -> Any:
        """The JSON value of an expression of JavaScript: it runs even where the page's scripts do not."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise ServerFailed(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def text(self) -> str:
        """What is to be read on it."""
        return str(self.run("document.body.innerText"))

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of each part that a screen reader is told of, in order."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and node["role"]["value"] not in ("none", "InlineTextBox")
        ]

    def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        answer = self._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def take(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Log.entryAdded":
            self.messages.append(event["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(event["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(event["exceptionDetails"]["text"])
        elif method == "Page.loadEventFired":
            self.loads += 1

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self.session, **parameters)


def _pipe() -> tuple[int, int]:
    """Two ends whose numbers are not those that Chromium uses."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
