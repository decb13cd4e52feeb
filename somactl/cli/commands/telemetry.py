"""The command that pushes metrics: push-metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from somactl.cli import inputs, pushing as pushes
from somactl.cli.command import Session, command
from somactl.cli.pushing import NOT_PUSHED, SnapshotOptions
from somactl.errors import UsageError
from somactl.report import PushedGroup, PushReport, Report
from somactl.suggestion import again

if TYPE_CHECKING:
    from somactl.telemetry.delivery import Delivered, Parcel
    from somactl.telemetry.observe import Observation


@command(
    epilog="Exit 0: pushed. 4: not all was pushed, or something could not be looked at. 11: a file holds no "
    "report. 13: a service does not answer, which is pushed."
)
async def push_metrics(session: Session, pushing: SnapshotOptions) -> Report:
    """Push metrics to a Prometheus Pushgateway: how the store is now, or what saved reports say.

    Without --report it looks at the store, cheaply: no value is read. With it, times are those of the
    reports, and a run that is older than the last one that the gateway knows is dropped.
    """
    if pushing.delete_group:
        return _delete(session, pushing)
    if pushing.report:
        return _push_saved(session, pushing, pushing.report)
    from somactl.operations.snapshot import snapshot
    from somactl.runtime import migrations

    async with session.store(read_only=True, fills=False) as store:
        report = await snapshot(store, session.settings.tolerances, migrations)
        session.done.append(report)
    report.gateway = "" if session.pushing is None else session.pushing.target
    return report


def _delete(session: Session, options: SnapshotOptions) -> PushReport:
    """Delete the job's group, and those of its shards."""
    if options.report or options.textfile or options.ping or options.spool:
        raise UsageError(
            "--delete-group goes with --gateway and --job alone",
            next=again(report=None, textfile=None, ping=None, spool=None),
        )
    from somactl.telemetry.pushgateway import PushFailed

    gateway = pushes.gateway(options.gateway)
    pushes.check(options, None)
    job = "push-metrics" if options.job is None else options.job
    group = {"job": job, "namespace": session.settings.namespace}
    report = PushReport(namespace=session.settings.namespace, gateway=str(gateway))
    try:
        found = [dict(each) for each in gateway.last_runs()]
        shards = [each for each in found if {**each, **group} == each and each.keys() - group == {"shard"}]
        for each in [group, *shards]:
            gateway.delete(each)
            report.deleted.append(_group(each))
    except PushFailed as exc:
        report.failed.append(_group(group, why=str(exc)))
        report.complete = False
        report.warnings.append(f"not deleted at {gateway}: {exc}")
    report.finish(0 if report.complete else NOT_PUSHED)
    return report


def _push_saved(session: Session, options: SnapshotOptions, files: list[str]) -> PushReport:
    """Push what the files say, each with its own times."""
    from somactl.telemetry.delivery import Delivered, deliver, parcel
    from somactl.telemetry.observe import Run, observe
    from somactl.telemetry.saved import command_of, read_report

    if options.ping is not None:
        raise UsageError("--ping goes with a run, and not with --report", next=again(ping=None))
    pushes.check(options, None)
    gateway = pushes.gateway(options.gateway) if options.push else None
    seen = []
    for file in files:
        saved = read_report(inputs.read_file(file), inputs.name_of(file))
        pushes.check(options, command_of(saved))
        run = Run(command_of(saved), session.settings.namespace, saved.code, saved, job=options.job)
        seen.append((file, observe(run)))
    report = PushReport(namespace=session.settings.namespace, gateway=str(gateway or ""))
    parcels = [parcel(each, file) for file, each in seen]
    done, wrote = Delivered(pushed=parcels), True
    if options.textfile is not None:
        older = pushes.write_textfile(options.textfile, [each for _, each in seen], session.out, past=True)
        done, wrote = _in_file(parcels, [each for _, each in seen], older), older is not None
    report.warnings += sorted({f"{file}: {each.left_out}" for file, each in seen if each.left_out})
    if gateway is not None:
        done = deliver(parcels, gateway, pushes.spool(options.spool), past=True)
    pushes.tell(done, report.gateway, options.spool, session.out)
    report.pushed = [_sent(each) for each in done.pushed]
    report.dropped, report.kept, report.failed = (
        [_sent(each, why) for each, why in part] for part in (done.dropped, done.kept, done.failed)
    )
    report.complete = wrote and done.is_whole
    report.finish(0 if report.complete else NOT_PUSHED)
    return report


def _in_file(parcels: list[Parcel], seen: list[Observation], older: list[Observation] | None) -> Delivered:
    """What became of parcels that were written to a file; older: those left out, None where it failed."""
    from somactl.telemetry.delivery import Delivered

    if older is None:
        return Delivered()
    done, why = Delivered(), "a later run of that group stands in the file"
    for each, observation in zip(parcels, seen, strict=True):
        if observation in older:
            done.dropped.append((each, why))
        else:
            done.pushed.append(each)
    return done


def _sent(each: Parcel, why: str = "") -> PushedGroup:
    return _group(each.group, source=each.source, ended_at=each.ended_at, why=why)


def _group(
    labels: Mapping[str, str], *, source: str = "", ended_at: float | None = None, why: str = ""
) -> PushedGroup:
    return PushedGroup(
        job=labels["job"],
        namespace=labels["namespace"],
        shard=labels.get("shard"),
        source=source,
        ended_at=ended_at,
        why=why,
    )
