"""Prometheus' and Grafana's files: they ask for numbers that there are, and nothing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/unlearn.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
WIDTH = 24


def test_panels_read_from_the_source_that_is_provisioned() -> None:
    folder = DEPLOY / "grafana/provisioning/datasources"
    [source] = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]
    for panel in PANELS:
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_panels_lie_beside_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_legends_name_labels_that_the_answer_has() -> None:
    for panel in PANELS:
        [target] = panel["targets"]
        by = re.search(r"sum by \(([\w, ]+)\)", target["expr"])
        kept = by and set(by[1].replace(" ", "").split(","))
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert kept is None or label in kept
