"""Starts the prover, hears it, and starts it again where it ended, fell silent, or said what is no message.

    supervisor = Supervisor(settings, options, state)
    supervisor.start()
    ...
    await supervisor.stop()          # no process is left

Nothing here proves anything, or imports what proofs need.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from somactl.config import Settings, inherited
from somactl.serve.model import MAX_LINE, Beat, Start, WatchOptions, decode
from somactl.serve.state import State

COMMAND = (sys.executable, "-P", "-m", "somactl.serve.prover")
OUT_OF_MEMORY = 77
"""As in `prover`, which is not imported here."""
_KEPT = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LD_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "KRB5CCNAME", "KRB5_CONFIG"),
        *("PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"),
    }
)
_KEPT_PREFIXES = ("LC_", "PG")
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_TAIL = 8192
"""Bytes kept of what the prover wrote on its standard error."""
_TICKS = 10
"""Parts of a patience: a process that was itself stopped counts that as one of them."""
_LAST_WORDS = 5.0
"""Seconds for a prover that closed its pipe to end."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the supervisor is, in seconds.

    silence       a prover that says nothing for so long hangs; twice as long, until it says its first word
    stuck         one that gets nothing done for so long, and for an interval, does, too
    first_pause   before the first restart; each next one is twice as long, up to longest_pause
    attempts      so many failures in a row, and it is given up: tried every given_up_pause only
    steady        a prover that ran for so long did not fail in a row
    nice          its priority
    """

    silence: float = 30.0
    stuck: float = 900.0
    first_pause: float = 0.5
    longest_pause: float = 30.0
    attempts: int = 6
    given_up_pause: float = 300.0
    steady: float = 60.0
    nice: int = 15


class Supervisor:
    """See the module. `log` is told in a sentence, with facts, what becomes of the prover.

    pid  of the prover; None where none runs
    """

    def __init__(
        self,
        settings: Settings,
        options: WatchOptions,
        state: State,
        *,
        pace: Pace | None = None,
        log: Callable[[str, Mapping[str, str]], None] = lambda said, facts: None,
        command: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings, self._options, self._state = settings, options, state
        self._pace = pace or Pace()
        self._log = log
        self._command = command
        self._environment = environment(inherited() if environ is None else environ)
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._patience = 0.0
        self._tail = b""

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, within: float = 5.0) -> None:
        """End the prover: it may take `within` seconds to close its connections, and is killed then."""
        if self._task is None:
            return
        self._patience = within
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def failed(self) -> None:
        """Wait for as long as it works; raises what ended it, which is a bug."""
        assert self._task is not None
        await asyncio.wait({self._task})
        self._task.result()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                failure = await self._one_life()
            except OSError as exc:  # no descriptors, no processes, no memory: there may be some later
                failure = f"it could not be started: {exc.strerror}"
            failures = 1 if loop.time() - began >= self._pace.steady else failures + 1
            given_up = failures >= self._pace.attempts
            self._state.prover_state("given-up" if given_up else "restarting", failure=failure)
            pause = self._pace.given_up_pause if given_up else self._pause(failures)
            facts = {"failure": failure, "again_in_seconds": f"{pause:g}", "stderr": self._shown_tail()}
            self._log("the prover is given up" if given_up else "the prover is started again", facts)
            await asyncio.sleep(pause)

    def _pause(self, failures: int) -> float:
        longest: float = min(self._pace.first_pause * 2.0 ** (failures - 1), self._pace.longest_pause)
        return longest

    async def _one_life(self) -> str:
        """Start a prover, hear it until it fails, and say why it did. Cancelled, it ends the prover.

        Raises OSError where it cannot be started.
        """
        self._tail = b""
        pipe, its_pipe = os.pipe()
        try:
            process = await self._spawn(its_pipe)
        except BaseException:
            os.close(pipe)
            raise
        finally:
            os.close(its_pipe)
        self._process = process
        errors = asyncio.create_task(self._keep_tail(process))
        try:
            failure = await self._hear(process, pipe, its_pipe)
            return await self._last_words(process) if failure is None else failure
        finally:
            await self._end(process)
            errors.cancel()
            await asyncio.wait({errors})

    async def _spawn(self, its_pipe: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(its_pipe,),
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the process that answers, which ends this one last
        )

    async def _hear(self, process: asyncio.subprocess.Process, pipe: int, its_pipe: int) -> str | None:
        """What is wrong with the prover; None where it has closed its pipe."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE)
        file = os.fdopen(pipe, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        stuck = self._pace.stuck + self._options.interval  # between two rounds it rests
        ear = _Ear(self._state, reader, self._pace.silence, stuck)
        tasks = [asyncio.create_task(ear.hear()), asyncio.create_task(ear.watch())]
        try:
            start = Start(
                settings=self._settings,
                watch=self._options,
                pipe=its_pipe,
                parent=os.getpid(),
                nice=self._pace.nice,
                beat=min(1.0, self._pace.silence / _TICKS),
            )
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(start) + b"\n")
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            transport.close()

    async def _last_words(self, process: asyncio.subprocess.Process) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                return ending(await process.wait())
        return "it closed its pipe and did not end"

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """End it, gently for as long as there is patience; returns when it is gone."""
        if process.stdin is not None:
            process.stdin.close()
        if self._patience and process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()

    async def _keep_tail(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while more := await process.stderr.read(_TAIL):
            self._tail = (self._tail + more)[-_TAIL:]

    def _shown_tail(self) -> str:
        """What the prover wrote last on its standard error, but for the stores' addresses."""
        text = self._tail.decode(errors="replace")
        for url in (self._settings.store, self._settings.cache):
            text = text.replace(url, "(address)") if url else text
        return text


class _Ear:
    """Hears one prover. Both methods return what is wrong with it."""

    def __init__(self, state: State, reader: asyncio.StreamReader, silence: float, stuck: float) -> None:
        self._state, self._reader = state, reader
        self._silence, self._stuck = silence, stuck
        self._quiet = -_TICKS
        self._idle = 0.0
        self._progress = -1

    async def hear(self) -> str | None:
        """None at the end of the pipe."""
        while True:
            try:
                line = await self._reader.readline()
                if not line.endswith(b"\n"):
                    return None
                message = decode(line)
                self._state.take(message)
            except ValueError:  # too long, or no message of this protocol, or about what is not watched
                return "it said what is no message"
            self._quiet = 0
            if isinstance(message, Beat) and message.progress != self._progress:
                self._progress, self._idle = message.progress, 0.0
            await asyncio.sleep(0)  # requests are answered between any two messages

    async def watch(self) -> str | None:
        tick = self._silence / _TICKS
        while self._quiet < _TICKS and self._idle < self._stuck:
            await asyncio.sleep(tick)
            self._quiet += 1
            self._idle += tick
        if self._quiet >= _TICKS:
            return f"it gave no sign of life for {self._silence:g} s"
        return f"it got nothing done for {self._stuck:g} s"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a prover needs of an environment: its drivers, its language, and one thread for each proof."""
    kept = {
        name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, **_ONE_THREAD}


def ending(code: int) -> str:
    """What the exit code of a prover says."""
    if code == OUT_OF_MEMORY:
        return "it ran out of memory"
    if code == -signal.SIGKILL:
        return "it was killed by SIGKILL, as the kernel does where memory runs out"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it was killed by signal {-code}"
    return f"it ended with exit code {code}"
