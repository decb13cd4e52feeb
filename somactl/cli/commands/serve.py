"""The command that stays: serve."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from somactl.cli.command import Session, command
from somactl.cli.serving import Listening, Manners, Watching, serve_options
from somactl.cli.signals import impatient
from somactl.config import inherited
from somactl.errors import ConfigurationError
from somactl.report import Report, ServeReport
from somactl.serve.context import refuse_plaintext
from somactl.serve.systemd import Systemd
from somactl.suggestion import explain

if TYPE_CHECKING:
    from somactl.serve.context import Address
    from somactl.serve.log import Log

NEEDED = ("starlette", "uvicorn", "uvloop", "httptools", "grpc", "grpc_health", "grpc_reflection")


@command(
    serves=True,
    epilog="Exit 0: ended by a signal, and nothing was cut off. 4: requests were, for which --grace was "
    "too short. 2: wrong usage. 10: it cannot listen there, or a file or a package is missing. 130, 143: "
    "ended at once, by a second signal.",
)
async def serve(session: Session, watching: Watching, listening: Listening, manners: Manners) -> Report:
    """Tell over HTTP and gRPC whether the mathematics holds, proven again and again, until a signal ends it.

    --namespace may be repeated. SIGHUP reads tokens and certificates anew. SIGTERM and Ctrl-C end it gently,
    and a second one at once.
    """
    interval, stale, dead = watching.times()
    options = serve_options(listening, manners)
    systemd = Systemd(inherited())
    if not systemd.names:  # else it has bound the sockets, and `run` looks at those
        refuse_plaintext(options, filter(None, (options.http, options.grpc)))
    _require_packages()
    from somactl.serve.log import Log
    from somactl.serve.model import WatchOptions
    from somactl.serve.run import serve as run

    watch = WatchOptions(
        namespaces=session.namespaces,
        patterns=tuple(watching.watch),
        interval=interval,
        stale_after=stale,
        dead_after=dead,
        tolerances=session.settings.tolerances,
        dark=session.settings.dark,
    )
    log, report = Log(), ServeReport(namespaces=list(session.namespaces))

    def announce(http: Address, grpc: Address | None) -> None:
        scheme = "http" if options.tls is None else "https"
        report.http, report.grpc = f"{scheme}://{http}", grpc and str(grpc)
        _announce(session, report, log)

    try:
        with impatient():
            ended = await run(session.settings, watch, options, systemd, log, announce)
    finally:
        log.close()
    report.requests, report.refused, report.cut_off = ended.requests, ended.refused, ended.cut_off
    report.prover_restarts, report.seconds = ended.prover_restarts, round(ended.seconds, 3)
    if ended.cut_off:
        report.warnings.append(
            f"{ended.cut_off} requests were cut off: --grace {manners.grace} was too short"
        )
    report.finish(4 if ended.cut_off else 0)
    session.done.append(report)
    return report


def _announce(session: Session, report: ServeReport, log: Log) -> None:
    names = ", ".join(report.namespaces)
    grpc = f" and gRPC on {report.grpc}" if report.grpc else ""
    if session.out.is_json:
        log.event("serving", http=report.http, grpc=report.grpc, namespaces=report.namespaces)
    else:
        session.out.talk(f"serving {report.http}{grpc}, for namespace {names}")


def _require_packages() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"serving needs packages that are not installed: {', '.join(missing)}",
            hint="install them with pip: somactl[serve]",
            next=explain("docs/SERVE.md"),
        )
