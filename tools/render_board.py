#!/usr/bin/env python3
"""Draws the Grafana board of deploy/grafana from a live Prometheus, for docs/images/board.png.

    tools/render_board.py --prometheus http://127.0.0.1:9090 --minutes 10

Nothing is made up: each panel is what the panel's own expressions return over the time asked for.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as mdates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

ROOT = Path(__file__).resolve().parent.parent
BOARD = ROOT / "deploy/grafana/gma_server.json"
POINTS = 240  # of each curve
BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#ccccdc", "#3a3d45"
COLORS = ["#73bf69", "#5794f2", "#f2cc0c", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d"]
PANELS_PER_LINE = 3

Curve = tuple[str, list[float], list[float]]  # legend, times, values


def bind(expression: str, rate_interval: str) -> str:
    """An expression of the board with its variables set: every model, every server."""
    for name, value in (
        ("$__rate_interval", rate_interval),
        ("$model_name", ".*"),
        ("$instance", ".*"),
    ):
        expression = expression.replace(name, value)
    return expression


def query_range(url: str, expression: str, start: float, end: float) -> list[dict[str, Any]]:
    """Series of `expression`, POINTS points each."""
    step = max(1.0, (end - start) / POINTS)
    parameters = {"query": expression, "start": start, "end": end, "step": step}
    address = f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def legend_of(template: str, labels: dict[str, str]) -> str:
    """Grafana's legend format: {{label}} is the label's value."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def shown(value: float, unit: str) -> str:
    """A value with its unit, short."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    base, names = (
        (1024, ["B", "KiB", "MiB", "GiB"]) if unit == "bytes" else (1000, ["", "k", "M", "G"])
    )
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1e3:.3g} ms" if abs(value) >= 1e-3 else f"{value * 1e6:.3g} µs"
    power = 0
    while abs(value) >= base and power < len(names) - 1:
        value, power = value / base, power + 1
    suffix = names[power] + {"s": "s", "reqps": "/s", "ops": "/s"}.get(unit, "")
    return f"{value:.3g} {suffix}".strip()


def curves(url: str, panel: dict[str, Any], start: float, end: float, rate: str) -> list[Curve]:
    """What the panel shows; curves that are zero throughout are left out if others are not."""
    out: list[Curve] = []
    for target in panel["targets"]:
        for series in query_range(url, bind(target["expr"], rate), start, end):
            times = [float(t) for t, _ in series["values"]]
            values = [float(v) for _, v in series["values"]]
            out.append((legend_of(target["legendFormat"], series["metric"]), times, values))
    alive = [c for c in out if any(math.isfinite(v) and v != 0 for v in c[2])]
    return alive or out[:1]


def draw_panel(
    axes: Axes, panel: dict[str, Any], found: list[Curve], span: tuple[float, float]
) -> None:
    """One panel in Grafana's dark colours; `span` is the time from left to right."""
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    axes.set_title(panel["title"], loc="left", fontsize=10, color=TEXT, fontweight="bold")
    axes.set_facecolor(PANEL)
    axes.tick_params(colors=TEXT, labelsize=7, length=0)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    if not found:
        axes.text(0.5, 0.5, "no data", color=TEXT, ha="center", transform=axes.transAxes)
        return
    if panel["type"] == "stat":
        last = found[0][2][-1]
        style = {"color": COLORS[0], "ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.55, shown(last, unit), fontsize=24, **style)
        axes.text(0.5, 0.2, found[0][0], fontsize=8, **(style | {"color": TEXT}))
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.grid(color=FAINT, linewidth=0.5)
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    below: dict[float, float] = {}
    for color, (legend, times, values) in zip(COLORS * 3, found, strict=False):
        dates = [t / 86400 for t in times]  # matplotlib counts days since 1970
        floor = [below.get(t, 0.0) if stacked else 0.0 for t in times]
        tops = [f + (v if math.isfinite(v) else 0.0) for f, v in zip(floor, values, strict=True)]
        line = tops if stacked else values
        axes.plot(dates, line, color=color, linewidth=1.2, label=legend)
        axes.fill_between(dates, floor, line, color=color, alpha=0.25 if stacked else 0.05)
        below |= dict(zip(times, tops, strict=True))
    axes.set_ylim(bottom=0)
    axes.set_xlim(*(t / 86400 for t in span))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))
    axes.set_xticks([(span[0] + (span[1] - span[0]) * i / 4) / 86400 for i in range(5)])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.legend(
        fontsize=7, loc="upper left", framealpha=0.5, facecolor=PANEL, labelcolor=TEXT, ncols=2
    )


def draw(url: str, minutes: float, rate: str, output: Path) -> int:
    """Draws the board; returns how many panels had no data."""
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    panels = [p for p in board["panels"] if p["type"] != "row"]
    lines = -(-len(panels) // PANELS_PER_LINE)
    figure, grid = plt.subplots(
        lines,
        PANELS_PER_LINE,
        figsize=(18, 2.5 * lines),
        facecolor=BACKGROUND,
        layout="constrained",
    )
    figure.suptitle(board["title"], color=TEXT, fontsize=14, x=0.01, ha="left")
    end = time.time()
    empty = 0
    for axes, panel in zip(grid.flat, panels, strict=False):
        span = (end - minutes * 60, end)
        found = curves(url, panel, *span, rate)
        empty += not found
        draw_panel(axes, panel, found, span)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80, facecolor=BACKGROUND)
    return empty


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=10, help="how far to look back")
    parser.add_argument("--rate_interval", default="1m", help="at least four scrape intervals")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/board.png")
    arguments = parser.parse_args()
    url = arguments.prometheus.rstrip("/")
    empty = draw(url, arguments.minutes, arguments.rate_interval, arguments.output)
    print(f"{arguments.output} drawn, {empty} panels without data")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
