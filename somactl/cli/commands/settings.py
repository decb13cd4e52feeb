"""The command that says how somactl is configured: config."""

from __future__ import annotations

from somactl.cli.command import Session, command
from somactl.cli.suggest import in_flags
from somactl.config import SETTINGS, Configuration, Origin, Resolved
from somactl.errors import SomactlError
from somactl.report import ConfigProblem, ConfigReport, Report, SettingView


@command(offline=True, epilog="Exit 0: every setting can be used. 10: one cannot; the report says which.")
async def config(session: Session) -> Report:
    """Show each setting, its value and where it comes from, without secrets. Opens nothing.

    A flag wins over the environment, the environment over the configuration file, the file over the default.
    """
    found = session.configuration
    assert found is not None
    report = ConfigReport(
        namespace=session.settings.namespace,
        settings=[*map(_setting, found.resolved.values()), *_others(found)],
        problems=[_problem(error) for error in found.errors],
    )
    return report.finish(10 if report.problems else 0)


def _problem(error: SomactlError) -> ConfigProblem:
    return ConfigProblem(message=error.message, hint=in_flags(error.hint) if error.hint else None)


def _setting(each: Resolved) -> SettingView:
    return SettingView(
        name=each.name,
        value=each.shown,
        unit=SETTINGS[each.name].unit,
        origin=each.origin.kind,
        place=each.origin.place,
        overridden=list(each.overridden),
        error=each.error.message if each.error else None,
    )


def _others(found: Configuration) -> list[SettingView]:
    """What a file cannot set: which file that is, and whether a terminal gets colours."""
    default = Origin("default", "the default")
    file, color = found.file_origin or default, found.color or default
    return [
        SettingView(
            name="config",
            value=found.file or "",
            unit="file",
            origin=file.kind,
            place=file.place,
            error=found.file_error.message if found.file_error else None,
        ),
        SettingView(
            name="color",
            value="auto" if found.color is None else "never",
            unit="auto never",
            origin=color.kind,
            place=color.place,
        ),
    ]
