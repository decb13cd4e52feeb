"""`examples/grafana`: a dashboard that asks for what is pushed, and answers what an operator asks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from somactl.telemetry.catalogue import QUESTIONS
from support.queries import problems

ROOT = Path(__file__).resolve().parents[2]
BOARD: dict[str, Any] = json.loads((ROOT / "examples/grafana/dashboard.json").read_text(encoding="utf-8"))
VARIABLES = {"$__rate_interval": "5m", "$namespace": "acme"}

pytestmark = pytest.mark.source


def queries() -> Iterator[tuple[str, str]]:
    """The title of a panel, and each of its queries, as Grafana sends them."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_a_query_names_only_what_is_pushed(title: str, query: str) -> None:
    assert list(problems(query)) == []
    assert "$" not in query
    assert 'namespace=~"acme"' in query, "it shows other namespaces than the one that was chosen"


def test_the_note_of_alerts_names_only_what_there_is() -> None:
    for each in BOARD["annotations"]["list"]:
        assert list(problems(each["expr"])) == []


def test_it_asks_for_each_metric_that_a_question_needs() -> None:
    asked = {name for _, query in queries() for name in re.findall(r"somabrain_\w+", query)}
    assert {name for query in QUESTIONS.values() for name in re.findall(r"somabrain_\w+", query)} <= asked


def test_panels_stand_side_by_side_and_each_has_a_number() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_panel_asks_the_prometheus_that_was_chosen() -> None:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
