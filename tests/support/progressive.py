"""Manifests of Argo Rollouts and Flagger, held against the fields that their custom resources have.

Written by hand after the published definitions (Argo Rollouts 1.9, Flagger 1.44), as far as the examples go:
an unknown field, a missing one or one of another type is refused, as the API server does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from support.kubernetes import problems as of_kubernetes

_Seconds = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(m|s)")]


class _Object(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class _Metadata(_Object):
    name: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


# --- Argo Rollouts: argoproj.io/v1alpha1


class _ValueFrom(_Object):
    pod_template_hash_value: Literal["Stable", "Latest"]


class _Argument(_Object):
    name: str
    value: str | None = None
    value_from: _ValueFrom | None = None


class _Job(_Object):
    spec: dict[str, Any]
    metadata: _Metadata | None = None


class _Provider(_Object):
    job: _Job


class _Metric(_Object):
    name: str
    provider: _Provider
    count: int | str = 1
    failure_limit: int | str = 0
    inconclusive_limit: int | str = 0
    interval: str | None = None
    initial_delay: str | None = None
    success_condition: str | None = None
    failure_condition: str | None = None


class _AnalysisTemplateSpec(_Object):
    metrics: list[_Metric]
    args: list[_Argument] = []


class _TemplateName(_Object):
    template_name: str
    cluster_scope: bool = False


class _StepAnalysis(_Object):
    templates: list[_TemplateName]
    args: list[_Argument] = []


class _Pause(_Object):
    duration: int | str | None = None


class _Step(_Object):
    """One of its fields is given."""

    set_weight: int | None = None
    analysis: _StepAnalysis | None = None
    pause: _Pause | None = None


class _Nginx(_Object):
    stable_ingress: str


class _TrafficRouting(_Object):
    nginx: _Nginx


class _CanaryStrategy(_Object):
    steps: list[_Step]
    canary_service: str | None = None
    stable_service: str | None = None
    traffic_routing: _TrafficRouting | None = None


class _Strategy(_Object):
    canary: _CanaryStrategy


class _RolloutSpec(_Object):
    selector: dict[str, Any]
    template: dict[str, Any]
    strategy: _Strategy
    replicas: int = 1
    revision_history_limit: int | None = None


class AnalysisTemplate(_Object, tag_field="kind", tag="AnalysisTemplate"):
    api_version: Literal["argoproj.io/v1alpha1"]
    metadata: _Metadata
    spec: _AnalysisTemplateSpec


class Rollout(_Object, tag_field="kind", tag="Rollout"):
    api_version: Literal["argoproj.io/v1alpha1"]
    metadata: _Metadata
    spec: _RolloutSpec


# --- Flagger: flagger.app/v1beta1


class _Reference(_Object):
    api_version: str
    kind: Literal["DaemonSet", "Deployment", "Service"]
    name: str


class _Service(_Object):
    port: float


class _Webhook(_Object):
    name: str
    url: str
    type: Literal[
        "",
        "confirm-rollout",
        "pre-rollout",
        "rollout",
        "confirm-promotion",
        "post-rollout",
        "event",
        "rollback",
        "confirm-traffic-increase",
    ] = ""
    timeout: _Seconds | None = None
    retries: float | None = None
    metadata: dict[str, str] = {}


class _Analysis(_Object):
    interval: _Seconds
    threshold: float
    step_weights: list[float] = []
    webhooks: list[_Webhook] = []


class _CanarySpec(_Object):
    target_ref: _Reference
    analysis: _Analysis
    service: _Service
    progress_deadline_seconds: float | None = None


class Canary(_Object, tag_field="kind", tag="Canary"):
    api_version: Literal["flagger.app/v1beta1"]
    metadata: _Metadata
    spec: _CanarySpec


_Known = AnalysisTemplate | Rollout | Canary
_KINDS = {"AnalysisTemplate", "Rollout", "Canary"}


def problems(manifest: dict[str, Any]) -> list[str]:
    """What the API server would refuse of it, and of the Jobs and pods in it."""
    if manifest["kind"] not in _KINDS:
        return of_kubernetes(manifest)
    try:
        found = msgspec.convert(manifest, _Known)
    except msgspec.ValidationError as exc:
        return [f"{manifest['kind']}: {exc}"]
    if isinstance(found, AnalysisTemplate):
        return [each for metric in found.spec.metrics for each in of_kubernetes(job_of(metric))]
    if isinstance(found, Rollout):
        steps = found.spec.strategy.canary.steps
        amiss = [f"step {i}: not one of its fields" for i, step in enumerate(steps) if _given(step) != 1]
        return amiss + of_kubernetes(_deployment(found))
    return []


def job_of(metric: _Metric) -> dict[str, Any]:
    """The Job that the metric makes."""
    made = metric.provider.job
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": metric.name}, "spec": made.spec}


def _given(step: _Step) -> int:
    return sum(getattr(step, each) is not None for each in step.__struct_fields__)


def _deployment(rollout: Rollout) -> dict[str, Any]:
    """Selector and pods of a Rollout are those of a Deployment."""
    spec = {"selector": rollout.spec.selector, "template": rollout.spec.template}
    metadata = {"name": rollout.metadata.name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
