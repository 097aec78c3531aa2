"""The dashboard and the alert rules name figures and labels that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vectorpool.telemetry.families import FAMILIES

DEPLOY = Path(__file__).parents[2] / "deploy"
pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="the files of deploy are not beside these tests")

NAME = re.compile(r"\bvectorpool_[a-z0-9_]+")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")
# Labels that Prometheus adds.
OUTER = {"instance", "job", "le"}
# Families of no panel: one is a constant beside a picture, the others are seen as parts of a whole.
UNSEEN = {
    "vectorpool_start_time_seconds",
    "vectorpool_requests_under_way_limit",
    "vectorpool_connections_limit",
    "vectorpool_hydration_bytes_total",
    "vectorpool_commit_bytes_total",
    "vectorpool_compaction_bytes_total",
    "vectorpool_verification_interval_seconds",
    "vectorpool_shard_requests_under_way",
    "vectorpool_pool_open_bytes_limit",
    "vectorpool_pool_warm_bytes_limit",
    "vectorpool_pool_queued_bytes",
    "vectorpool_pool_uncommitted",
    "vectorpool_process_threads",
    "vectorpool_embedding_batches_total",
    "vectorpool_background_task_failures",
}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Return every expression of both files."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    return panels + [rule["expr"] for rule in rules()]


def family_of(name: str) -> str:
    """Return the family that a series belongs to."""
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and base in FAMILIES and FAMILIES[base].kind == "histogram":
            return base
    return name


@pytest.mark.parametrize("expression", expressions())
def test_names_and_labels_are_those_of_the_figures(expression: str) -> None:
    """Each name is a family's, and each label one of the families in the expression, or one that Prometheus adds."""
    families = [FAMILIES[family_of(name)] for name in NAME.findall(expression)]
    assert families or expression.startswith("up{"), expression
    for name in NAME.findall(expression):
        if FAMILIES[family_of(name)].kind == "histogram":
            assert name.endswith(("_bucket", "_sum", "_count")), name
    known = OUTER | {label for family in families for label in family.labels}
    used = set(MATCHER.findall(expression))
    for group in GROUPING.findall(expression):
        used |= {label.strip() for label in group.split(",")}
    assert used <= known, used - known


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_it_means_and_where_to_look(rule: dict[str, Any]) -> None:
    """Its texts name labels that its expression keeps."""
    notes = rule["annotations"]
    assert notes["summary"] and notes["look"] and rule["labels"]["severity"] in ("page", "warn")
    named = set(re.findall(r"\$labels\.(\w+)", notes["summary"]))
    kept = set(OUTER)
    if groups := GROUPING.findall(rule["expr"]):
        kept &= {label.strip() for group in groups for label in group.split(",")} | {"job"}
        kept |= {label.strip() for group in groups for label in group.split(",")}
    else:
        kept |= {label for name in NAME.findall(rule["expr"]) for label in FAMILIES[family_of(name)].labels}
    assert named <= kept, named - kept


def test_what_is_counted_can_be_seen() -> None:
    """Every family is in a panel or in a rule, but for those listed here."""
    text = "\n".join(expressions()) + json.dumps(dashboard()["templating"])
    seen = {family_of(name) for name in NAME.findall(text)}
    assert set(FAMILIES) - seen == UNSEEN


def test_panels_have_places_of_their_own() -> None:
    """Ids are unique, and no panel covers another."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
