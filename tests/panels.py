"""A picture of the dashboard's panels, drawn without Grafana.

``uv run --with matplotlib python -m tests.panels http://PROMETHEUS OUT.png [--minutes 10] [--ago 0]``

Every panel of ``deploy/grafana-dashboard.json`` is asked of a running Prometheus with its own expressions, and drawn in
its own place. What is drawn is what Prometheus answers; colours and axes are not Grafana's.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana-dashboard.json"
_COLUMNS = 24
_UNITS = {"reqps": "/s", "ops": "/s", "s": "s", "bytes": "MB", "Bps": "MB/s", "percentunit": "%", "short": ""}
_SCALES = {"bytes": 1e-6, "Bps": 1e-6, "percentunit": 100.0}


def series_of(prometheus: str, expression: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """Return what Prometheus answers for an expression over a time."""
    asked = expression.replace('instance=~"$instance"', 'instance=~".*"').replace("$__rate_interval", "30s")
    parameters = {"query": asked, "start": start_s, "end": end_s, "step": 5}
    answer = httpx.get(f"{prometheus}/api/v1/query_range", params=parameters, timeout=30).json()
    assert answer["status"] == "success", (asked, answer)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def legend(form: str, labels: dict[str, str]) -> str:
    """Return a series' name as the panel's legend has it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form).strip()


def draw(prometheus: str, path: Path, minutes: float, ago: float = 0.0) -> None:
    """Ask and draw every panel, over so many minutes that ended ``ago`` minutes before."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = json.loads(DASHBOARD.read_text())["panels"]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(18, bottom * 0.36), dpi=75, facecolor="white")
    end_s = time.time() - ago * 60
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] / _COLUMNS, 1 - place["y"] / bottom
        width, height = place["w"] / _COLUMNS, place["h"] / bottom
        if panel["type"] == "row":
            figure.text(0.01, top - height * 0.8, panel["title"], fontsize=13, fontweight="bold")
            continue
        axes = figure.add_axes((left + 0.03, top - height * 0.82, width - 0.04, height * 0.66))
        unit = panel["fieldConfig"]["defaults"]["unit"]
        scale = _SCALES.get(unit, 1.0)
        lines = []
        for target in panel["targets"]:
            for one in series_of(prometheus, target["expr"], end_s - minutes * 60, end_s):
                points = [(float(at) - end_s, float(value) * scale) for at, value in one["values"]]
                lines.append((legend(target["legendFormat"], one["metric"]), points))
        stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
        if stacked and lines:
            times = sorted({at for _, points in lines for at, _ in points})
            rows = [[dict(points).get(at, 0.0) for at in times] for _, points in lines]
            axes.stackplot([at / 60 for at in times], rows, labels=[name for name, _ in lines], alpha=0.75)
        else:
            for name, points in lines:
                axes.plot([at / 60 for at, _ in points], [value for _, value in points], label=name, linewidth=1.2)
        axes.set_title(
            f"{panel['title']}  [{_UNITS[unit]}]" if _UNITS[unit] else panel["title"], fontsize=9, loc="left"
        )
        axes.set_ylim(bottom=0)
        axes.set_xlim(-minutes, 0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        if lines:
            axes.legend(fontsize=6, loc="upper left", ncols=2, framealpha=0.6)
        else:
            axes.text(0.5, 0.5, "no series", transform=axes.transAxes, ha="center", color="grey")
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("prometheus")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--ago", type=float, default=0.0)
    options = parser.parse_args()
    draw(options.prometheus, options.out, options.minutes, options.ago)
