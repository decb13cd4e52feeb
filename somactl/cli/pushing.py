"""What jobs do when they end, in whatever way: push metrics, write them to a file, tell a dead man's switch.

A job's result is its own: where a gateway is down or silent, or the disk of the spool full, it becomes 4 at
most, and one line says so.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from somactl import config
from somactl.cli.output import Output, output_mode
from somactl.cli.output_file import OutputFile
from somactl.cli.signals import Stopped
from somactl.errors import ConfigurationError, SomactlError, UsageError
from somactl.report import Report, decide
from somactl.suggestion import again

if TYPE_CHECKING:
    from somactl.telemetry.delivery import Delivered, Parcel
    from somactl.telemetry.latency import Latencies
    from somactl.telemetry.observe import Observation
    from somactl.telemetry.pushgateway import Gateway

NOT_PUSHED = 4
"""What a run ends with at least whose metrics did not get where they belong."""

GATEWAY = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The Pushgateway.", show_default="SOMACTL_PUSH_GATEWAY"),
]
JOB = Annotated[str | None, typer.Option(metavar="NAME", help="Another label `job` than the command.")]
SPOOL = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Keep there what could not be pushed, and push it with the next."),
]
TEXTFILE = Annotated[
    str | None, typer.Option(metavar="FILE", help="Write metrics there, for the node exporter.")
]
PING = Annotated[
    str | None, typer.Option(metavar="URL", help="Tell a dead man's switch of the start and the end.")
]


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The options of a job about its metrics."""

    PANEL: ClassVar[str] = "Metrics"

    push: Annotated[bool, typer.Option("--push", help="Push metrics when it ends, in whatever way.")] = False
    gateway: GATEWAY = None
    job: JOB = None
    spool: SPOOL = None
    textfile: TEXTFILE = None
    ping: PING = None

    @property
    def wanted(self) -> bool:
        """Whether anything is to be done at the end."""
        return self.push or self.textfile is not None or self.ping is not None


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """Those of the command that is there for pushing."""

    report: Annotated[
        list[str] | None,
        typer.Option("--report", metavar="FILE|-", help="Push what this report, or evidence, says."),
    ] = None
    gateway: GATEWAY = None
    job: JOB = None
    spool: SPOOL = None
    textfile: TEXTFILE = None
    ping: PING = None
    delete_group: Annotated[
        bool, typer.Option("--delete-group", help="Delete the group at the gateway, and push nothing.")
    ] = False

    @property
    def push(self) -> bool:
        """A file alone is asked for where no gateway is named."""
        return (
            self.gateway is not None
            or self.textfile is None
            or config.PUSH_GATEWAY in config.push_environment()
        )

    @property
    def wanted(self) -> bool:
        return not (self.report or self.delete_group)


Options = PushOptions | SnapshotOptions


class Pushing:
    """What one run does about its metrics. Making it refuses what is wrong before any work begins.

    namespace is None where it is not known: what a wrong setting says instead could be a secret.
    dark: the run is in dark mode; None where that setting cannot be read.
    made: whether this process, which is one run, has one.
    """

    made = False

    def __init__(
        self, options: Options, command: str, namespace: str | None, *, dark: bool | None = None
    ) -> None:
        self.options, self.command, self.namespace, self.dark = options, command, namespace, dark
        self.latencies: Latencies | None = None
        self.shard: str | None = None
        self._began = time.monotonic()
        self._ended = False
        check(options, command)
        Pushing.made = True
        self._gateway = gateway(options.gateway) if options.push else None
        if options.push or options.textfile is not None:
            from somactl.telemetry.latency import Latencies

            self.latencies = Latencies()
        if options.ping is not None:
            from somactl.cli.ping import Ping

            self._ping: Ping | None = Ping(options.ping)
        else:
            self._ping = None

    @property
    def target(self) -> str:
        """The gateway that is pushed to; empty where none is."""
        return "" if self._gateway is None else str(self._gateway)

    def around(self, work: Callable[[], int]) -> int:
        """What `work` returns; where it raises, that is the end of the run too."""
        if self._ping is not None:
            self._ping.start()
        try:
            return work()
        except SomactlError as exc:
            self.end(exc.exit_code)
            raise
        except Stopped as stopped:
            self.end(stopped.exit_code)
            raise
        except typer.Abort:
            self.end(130)
            raise
        except Exception:
            self.end(1)
            raise

    def end(
        self,
        code: int,
        report: Report | None = None,
        *,
        out: Output | None = None,
        now: float | None = None,
        degraded: bool | None = None,
    ) -> int:
        """Push once, however often it is called; the code of the run, with 4 where that did not succeed.

        now  the time by the store's clock, where there is no report but a store has told it
        """
        if self._ended:
            return code
        self._ended = True
        out = out or Output(output_mode(sys.argv[1:]))
        if self._ping is not None:
            self._ping.end(code)
        try:
            told = self._deliver(code, report, out, now, degraded)
            if self._ping is not None and (defect := self._ping.wait()):
                out.warn(f"the ping failed: {defect}")
        except Stopped:
            kept = f"; what was not is kept in {self.options.spool}" if self.options.spool else ""
            out.warn(f"metrics were perhaps not pushed: stopped by a signal{kept}")
            told = False
        except Exception as exc:  # whatever it is, it is not the job's
            out.warn(f"metrics were not pushed: {type(exc).__name__}: {exc}")
            told = False
        return code if told else decide((code, NOT_PUSHED))

    def _deliver(
        self, code: int, report: Report | None, out: Output, now: float | None, degraded: bool | None
    ) -> bool:
        if self._gateway is None and self.options.textfile is None:
            return True
        if self.namespace is None:
            out.warn("metrics were not pushed: it is not known of which namespace")
            return False
        from somactl.telemetry.delivery import deliver, parcel
        from somactl.telemetry.observe import Run, observe

        seen = observe(
            Run(
                self.command,
                self.namespace,
                code,
                report,
                job=self.options.job,
                shard=self.shard,
                seconds=time.monotonic() - self._began,
                now=time.time() if now is None else now,
                latencies=self.latencies.stats() if self.latencies else {},
                degraded=degraded,
                dark=self.dark,
            )
        )
        file = self.options.textfile
        told = file is None or write_textfile(file, [seen], out) is not None
        if self._gateway is None:
            return told
        if seen.left_out:
            out.talk(f"{seen.left_out}; --job NAME pushes what it found under a name of its own")
        done = deliver([parcel(seen)], self._gateway, spool(self.options.spool))
        tell(done, self._gateway, self.options.spool, out)
        return told and done.is_whole


def begin(options: Options | None, command: str, common: Mapping[str, Any]) -> Pushing | None:
    """What the run does about its metrics; None where nothing is asked for.

    Raises UsageError and ConfigurationError for options that are wrong.
    """
    if options is None:
        return None
    if not options.wanted:
        _refuse_idle(options)
        return None
    found = config.examine(common).resolved
    return Pushing(options, command, found["namespace"].value, dark=found["dark_mode"].value)


def refused(argv: Sequence[str], command: str, code: int, out: Output) -> int:
    """Push that a command line was refused with `code`, before its options were known; the exit code."""
    from somactl.cli.app import value_of

    if Pushing.made:  # it was not: its command has begun, and told
        return code
    if not any(word.partition("=")[0] in ("--push", "--ping", "--textfile") for word in argv):
        return code
    values = {
        each.name: value_of(argv, f"--{each.name}") for each in fields(PushOptions) if each.name != "push"
    }
    try:
        pushing = begin(
            PushOptions(push="--push" in argv, **values),
            command,
            {"namespace": value_of(argv, "--namespace", "-n"), "config": value_of(argv, "--config")},
        )
    except SomactlError:
        return code  # which says enough
    return code if pushing is None else pushing.end(code, out=out)


def gateway(flag: str | None) -> Gateway:
    """The gateway that the flag or the environment names. Raises UsageError, ConfigurationError."""
    from somactl.telemetry.pushgateway import Access, Gateway, parse_url

    found = config.push_environment()
    text = flag if flag is not None else found.get(config.PUSH_GATEWAY)
    if text is None:
        raise ConfigurationError(
            "no Pushgateway is named",
            hint=f"name it with --gateway or {config.PUSH_GATEWAY}",
            next=again(gateway="http://localhost:9091"),
        )
    place = "--gateway" if flag is not None else config.PUSH_GATEWAY
    names = ("USER", "PASSWORD_FILE", "CA", "CERT", "KEY")
    access = Access(
        parse_url(text, place, by_flag=flag is not None),
        *(found.get(f"SOMACTL_PUSH_{name}", "") for name in names),
    )
    if access.password_file and not access.user:
        raise ConfigurationError("SOMACTL_PUSH_PASSWORD_FILE goes with SOMACTL_PUSH_USER")
    return Gateway(access)


def check(options: Options, command: str | None) -> None:
    """Raises UsageError where options do not go together, or a label would be refused. command: the one whose
    run is pushed; None where that is not one alone."""
    if options.job is not None:
        from somactl.telemetry.pushgateway import check_job

        check_job(options.job, options.job if command is None else command)
    if not options.push and (options.gateway is not None or options.spool is not None):
        raise UsageError("--gateway and --spool go with --push", next=again(push=True))


def _refuse_idle(options: Options) -> None:
    if isinstance(options, PushOptions) and (options.gateway or options.spool or options.job is not None):
        raise UsageError("--gateway, --job and --spool go with --push", next=again(push=True))


def spool(folder: str | None) -> Any:
    """The spool in that folder, whose files are written like every other; None for None."""
    if folder is None:
        return None
    from somactl.telemetry.spool import Spool

    return Spool(folder, _write)


def _write(path: str, data: bytes) -> None:
    with OutputFile(path) as file:
        file.write(data)
        file.keep()


def write_textfile(
    path: str, seen: Sequence[Observation], out: Output, *, past: bool = False
) -> list[Observation] | None:
    """Write the metrics, with what stands there of others: those of them that a later run has made old, which
    were left out. None, and a remark, where that fails. past: they may be old."""
    from somactl.telemetry.registry import merged

    try:
        with OutputFile(path) as file:
            try:
                text, older = merged(_standing(path), seen, past=past)
            except (ValueError, KeyError):  # not what was written by us
                text, older = merged("", seen)
            file.write(text)
            file.keep()
    except SomactlError as exc:
        out.warn(f"metrics were not written: {exc.message}")
        return None
    return older


def _standing(path: str) -> str:
    if not os.path.isfile(path):
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def tell(done: Delivered, target: object, folder: str | None, out: Output) -> None:
    """Say in one line each what was not pushed to the target, and what was pushed late."""
    for each, why in done.dropped:
        out.warn(f"dropped: {each}: {why}")
    if late := sum(1 for each in done.pushed if folder and each.source.startswith(folder)):
        out.talk(f"pushed {late} that had been kept in {folder}")
    for each, why in done.kept:
        out.warn(f"metrics were not pushed to {target}: {why}; {_named(each)}kept in {folder}")
    for each, why in done.failed:
        out.warn(f"metrics were not pushed to {target}: {why}" + (f" ({each.source})" if each.source else ""))
    if done.lost:
        out.warn(f"{folder} was full: its {done.lost} oldest were dropped")


def _named(each: Parcel) -> str:
    return f"{each.source} is " if each.source else ""
