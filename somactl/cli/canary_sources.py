"""The sources that the spec of a canary check names: stores are opened, files read, variables looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from somactl import config
from somactl.cli import inputs
from somactl.config import Settings
from somactl.core.canary_samples import ARMS, ArmName
from somactl.core.canary_spec import Arm, Spec
from somactl.core.names import Pattern, validate_namespace
from somactl.operations.canary.health import Health
from somactl.operations.canary.http import Site
from somactl.operations.canary.probe import Probe
from somactl.operations.canary.prometheus import Prometheus
from somactl.operations.canary.recording import Recorded, read_recording
from somactl.operations.canary.sources import Now, Source


def sources(spec: Spec, settings: Settings, now: Now) -> list[Source]:
    """One for each arm; nothing is opened yet.

    Raises ConfigurationError for what is no address, or a variable that is not set; SecretExposed for a
    password in the spec; InvalidName, InvalidFile.
    """
    return list(_sources(spec, settings, now))


def _sources(spec: Spec, settings: Settings, now: Now) -> Iterator[Source]:
    for name in ARMS:
        arm = spec.arms[name]
        if arm.source == "samples":
            files = {name: arm.file or ""}
            yield Recorded(name, read_recording(files, inputs.read_samples))
        elif arm.source == "prometheus":
            yield Prometheus(name, _site(name, "url", arm.url or ""), arm, spec.window, now)
        elif arm.health is not None:
            namespace = None if arm.namespace is None else validate_namespace(arm.namespace)
            yield Health(name, _site(name, "health", arm.health), namespace)
        else:
            yield _probe(name, arm, settings, now)


def _probe(name: ArmName, arm: Arm, settings: Settings, now: Now) -> Probe:
    from somactl.runtime import open_store

    own = replace(
        settings,
        store=config.named_address(arm.store or "", f"the {name}'s store", "store"),
        cache=config.named_address(arm.cache, f"the {name}'s cache", "cache") if arm.cache else "",
        namespace=validate_namespace(arm.namespace or settings.namespace),
    )
    keys = None if arm.keys is None else Pattern(arm.keys).text
    return Probe(name, open_store(own, read_only=True, fills=True), keys, own.tolerances, now)


def _site(name: ArmName, field: str, word: str) -> Site:
    place = f"`arms.{name}.{field}`"
    url, from_environment = config.named(word, f"the {name}'s {field}")
    return Site(url, place, from_environment=from_environment)
