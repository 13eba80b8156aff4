#!/usr/bin/env python3
"""Writes gma_server.json, the Grafana board of gma-server.

    deploy/grafana/make_board.py          writes the file
    deploy/grafana/make_board.py --check  fails if the file is not what would be written

A row of panels is a heading and its panels, three to a line. Every expression is run against a
real server by tests/integration/test_prometheus.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parent / "gma_server.json"
SELECT = 'model_name=~"$model_name", instance=~"$instance"'
RATE = "[$__rate_interval]"
DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 7


@dataclass
class Panel:
    """One panel; `queries` are (expression, legend)."""

    title: str
    description: str
    unit: str
    queries: list[tuple[str, str]]
    kind: str = "timeseries"  # or "stat"
    stacked: bool = False


def rate(metric: str, by: str = "", more: str = "") -> str:
    """Sum of rates of a counter."""
    selector = ", ".join(filter(None, [SELECT, more]))
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}{RATE}))"


def gauge(metric: str, by: str = "", more: str = "") -> str:
    """Sum of a gauge over instances."""
    selector = ", ".join(filter(None, [SELECT, more]))
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{selector}}})"


def percentiles(metric: str, by: str = "") -> list[tuple[str, str]]:
    """The median, 95th and 99th percentile of a histogram."""
    labels = ", ".join(filter(None, ["le", by]))
    legend = f"{{{{{by}}}}} " if by else ""
    return [
        (f"histogram_quantile({q}, {rate(metric + '_bucket', labels)})", f"{legend}p{q * 100:g}")
        for q in (0.5, 0.95, 0.99)
    ]


def mean(metric: str, legend: str, by: str = "") -> tuple[str, str]:
    """The mean of a histogram."""
    return (f"{rate(metric + '_sum', by)} / {rate(metric + '_count', by)}", legend)


def recorded(rule: str) -> str:
    """The worst value of a recording rule that keeps only the model's name."""
    return f'max ({rule}{{model_name=~"$model_name"}})'


def increase(metric: str) -> str:
    """Events inside one step of the graph."""
    return f"sum (increase({metric}{{{SELECT}}}{RATE}))"


TRAFFIC = [
    Panel(
        "Answers",
        "Answers that ended as asked, by the reason they ended.",
        "reqps",
        [(rate("gma_request_success_total", "finished_reason"), "{{finished_reason}}")],
        stacked=True,
    ),
    Panel(
        "Errors",
        "Requests refused or failed, by google.rpc code. INVALID_ARGUMENT and NOT_FOUND are the "
        "caller's mistakes.",
        "reqps",
        [(rate("gma_request_error_total", "code"), "{{code}}")],
    ),
    Panel(
        "Refused before any work",
        "queue_full: demand above capacity. no_row: the state pool is full.",
        "reqps",
        [(rate("gma_admission_rejected_total", "reason"), "{{reason}}")],
    ),
    Panel(
        "Requests now",
        "Waiting: accepted, not scheduled yet. Paused: their readers are behind.",
        "short",
        [
            (gauge("gma_num_requests_running"), "running"),
            (gauge("gma_num_requests_waiting"), "waiting"),
            (gauge("gma_num_requests_paused"), "paused"),
        ],
    ),
    Panel(
        "Tokens",
        "Tokens fed from prompts, and tokens generated, a second.",
        "short",
        [
            (rate("gma_prompt_tokens_total"), "prompt"),
            (rate("gma_generation_tokens_total"), "generated"),
        ],
    ),
    Panel(
        "Size of requests",
        "Medians and 95th percentiles, in tokens.",
        "short",
        [
            *((e, f"prompt {n}") for e, n in percentiles("gma_request_prompt_tokens")[:2]),
            *((e, f"answer {n}") for e, n in percentiles("gma_request_generation_tokens")[:2]),
        ],
    ),
]

LATENCY = [
    Panel(
        "First token",
        "From acceptance of a request to its first token.",
        "s",
        percentiles("gma_time_to_first_token_seconds"),
    ),
    Panel(
        "Between tokens",
        "Between two tokens of one answer.",
        "s",
        percentiles("gma_inter_token_latency_seconds"),
    ),
    Panel(
        "Whole request",
        "From acceptance of a request to its end.",
        "s",
        percentiles("gma_e2e_request_latency_seconds"),
    ),
    Panel(
        "Where the time goes",
        "Mean seconds of a request in the queue, until its first token, and from there to its end.",
        "s",
        [
            mean("gma_request_queue_time_seconds", "queue"),
            mean("gma_request_prefill_time_seconds", "prefill"),
            mean("gma_request_decode_time_seconds", "decode"),
        ],
        stacked=True,
    ),
    Panel(
        "Queue",
        "From acceptance of a request to its first step.",
        "s",
        percentiles("gma_request_queue_time_seconds"),
    ),
    Panel(
        "Late",
        "Shares that miss the objectives of rules.yml.",
        "percentunit",
        [
            (
                recorded("model_name:gma_time_to_first_token_slow:ratio_rate5m"),
                "first token over 2.5 s",
            ),
            (
                recorded("model_name:gma_inter_token_slow:ratio_rate5m"),
                "token over 0.2 s",
            ),
            (
                recorded("model_name:gma_request_faults:ratio_rate5m"),
                "failed by the server",
            ),
        ],
    ),
]

BATCH = [
    Panel(
        "Step",
        "One step of the decoder: median by kind of its rows.",
        "s",
        [(percentiles("gma_iteration_latency_seconds", "phase")[0][0], "{{phase}}")],
    ),
    Panel(
        "Steps",
        "Steps a second, by kind of their rows.",
        "ops",
        [(rate("gma_iteration_latency_seconds_count", "phase"), "{{phase}}")],
        stacked=True,
    ),
    Panel(
        "Rows and tokens in a step",
        "Means. The more rows share a step, the less each costs.",
        "short",
        [
            mean("gma_scheduled_batch_size", "rows"),
            mean("gma_iteration_tokens", "tokens"),
        ],
    ),
    Panel(
        "Busy",
        "Share of the time that the engine spends in steps; 1 is a saturated engine.",
        "percentunit",
        [(rate("gma_iteration_latency_seconds_sum", "instance"), "{{instance}}")],
    ),
    Panel(
        "Broken",
        "Failed steps, and answers whose logits were not finite. Must stay at 0.",
        "short",
        [
            (increase("gma_step_failures_total"), "failed steps"),
            (increase("gma_state_nonfinite_total"), "not finite"),
        ],
    ),
    Panel(
        "Loaded",
        "What runs, and how long it took to load.",
        "s",
        [(f"gma_model_load_seconds{{{SELECT}}}", "{{model_name}} on {{instance}}")],
        kind="stat",
    ),
]

STATE = [
    Panel(
        "State rows",
        "Rows of the pool by use. In a full pool idle sessions make room.",
        "short",
        [(gauge("gma_state_rows", "use"), "{{use}}")],
        stacked=True,
    ),
    Panel(
        "Tokens in a session",
        "At the end of each turn. The state has one size whatever this says.",
        "short",
        percentiles("gma_session_context_tokens"),
    ),
    Panel(
        "Memory",
        "State rows, parked rows, checkpoints, states kept for reuse, the weights; and all of the "
        "process.",
        "bytes",
        [
            (gauge("gma_state_pool_bytes"), "state pool"),
            (gauge("gma_session_parked_bytes"), "parked"),
            (gauge("gma_session_checkpoint_bytes"), "checkpoints"),
            (gauge("gma_prefix_bytes"), "prefixes"),
            (gauge("gma_model_weights_bytes"), "weights"),
            (gauge("gma_resident_memory_bytes"), "process"),
        ],
    ),
    Panel(
        "State of one session",
        "Bytes of one state row.",
        "bytes",
        [(f"max (gma_state_bytes_per_session{{{SELECT}}})", "bytes a session")],
        kind="stat",
    ),
    Panel(
        "Prefix hits",
        "Share of the requests from the start of a text that began with a state which an earlier "
        "one had left.",
        "percentunit",
        [
            (
                f"{rate('gma_prefix_hits_total')} / ({rate('gma_prefix_hits_total')} + "
                f"{rate('gma_prefix_misses_total')})",
                "hits",
            )
        ],
    ),
    Panel(
        "Prefix tokens",
        "Tokens of input a second that were fed, and that such states had read already.",
        "short",
        [
            (rate("gma_prompt_tokens_total"), "fed"),
            (rate("gma_prefix_tokens_saved_total"), "saved"),
        ],
        stacked=True,
    ),
]

SESSIONS = [
    Panel(
        "Sessions",
        "Open sessions by where their state is: in a row of the pool, parked in host memory, or "
        "sealed in the store.",
        "short",
        [(gauge("gma_sessions", "tier"), "{{tier}}")],
        stacked=True,
    ),
    Panel(
        "Moves",
        "Sessions that moved to another tier or expired (to none), a second.",
        "ops",
        [
            (
                rate("gma_session_evictions_total", "from, to, reason"),
                "{{from}} to {{to}}: {{reason}}",
            ),
            (rate("gma_session_restore_seconds_count", "tier"), "{{tier}} to pool"),
        ],
    ),
    Panel(
        "Waking",
        "From a call for a parked session to its state in the pool, by the tier it was in.",
        "s",
        percentiles("gma_session_restore_seconds", "tier"),
    ),
    Panel(
        "Room for sessions",
        "Bytes that they take of --park_memory_bytes (rows alone: checkpoints go first) and of "
        "--park_disk_bytes.",
        "percentunit",
        [
            (
                f"max ({gauge('gma_session_parked_bytes', 'instance')} / "
                + gauge("gma_session_budget_bytes", "instance", 'tier="memory"')
                + ")",
                "memory",
            ),
            (
                f"max ({gauge('gma_store_bytes', 'instance')} / "
                + gauge("gma_session_budget_bytes", "instance", 'tier="disk"')
                + ")",
                "store",
            ),
        ],
    ),
    Panel(
        "Store lag",
        "Age of the oldest write that the store has not taken. A crash loses what is that old.",
        "s",
        [(f"max by (instance) (gma_store_lag_seconds{{{SELECT}}})", "{{instance}}")],
    ),
    Panel(
        "Store errors",
        "Calls of the store that failed, by what they were to do. Must stay at 0.",
        "short",
        [(f"sum by (call) (increase(gma_store_errors_total{{{SELECT}}}{RATE}))", "{{call}}")],
    ),
    Panel(
        "Sealing",
        "Time to seal a session and write it to the store.",
        "s",
        percentiles("gma_snapshot_save_seconds"),
    ),
    Panel(
        "Streams taken up again",
        "Readers that came back to a session's last turn, a second, by what they found; and turns "
        "that stand still for theirs.",
        "short",
        [
            (rate("gma_stream_resumes_total", "result"), "{{result}}"),
            (gauge("gma_turns_detached"), "detached now"),
        ],
    ),
    Panel(
        "Going back",
        "Forks, rewinds, exports and imports, a second.",
        "ops",
        [
            (rate("gma_session_forks_total"), "forks"),
            (rate("gma_session_rewinds_total"), "rewinds"),
            (rate("gma_session_exports_total"), "exports"),
            (rate("gma_session_imports_total"), "imports"),
        ],
    ),
]

ROWS = [
    ("Traffic", TRAFFIC),
    ("Latency", LATENCY),
    ("Batch", BATCH),
    ("State", STATE),
    ("Sessions and their store", SESSIONS),
]


def variable(name: str, label: str) -> dict[str, Any]:
    """A choice over the values of one label; all of them by default."""
    query = f"label_values(gma_build_info, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """The panel as Grafana keeps it."""
    out: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for i, (expr, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
    }
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        custom = {"fillOpacity": 25 if panel.stacked else 5, "stacking": stacking}
        out["fieldConfig"]["defaults"]["custom"] = custom
        out["options"] = {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}}
    return out


def board() -> dict[str, Any]:
    """The whole board."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        grid = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": grid, "panels": []}
        )
        y += 1
        for i, panel in enumerate(row):
            x = i * PANEL_WIDTH % COLUMNS
            panels.append(
                panel_json(panel, len(panels) + 1, x, y + i * PANEL_WIDTH // COLUMNS * PANEL_HEIGHT)
            )
        y += -(-len(row) * PANEL_WIDTH // COLUMNS) * PANEL_HEIGHT
    datasource = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    return {
        "uid": "gma-server",
        "title": "GMA Server",
        "tags": ["gma"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [datasource, variable("model_name", "Model"), variable("instance", "Server")]
        },
        "panels": panels,
    }


def main() -> int:
    """Writes or checks the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    text = json.dumps(board(), indent=2, ensure_ascii=False) + "\n"
    if not arguments.check:
        OUTPUT.write_text(text, encoding="utf-8")
    elif OUTPUT.read_text(encoding="utf-8") != text:
        print(f"{OUTPUT} is out of date: run deploy/grafana/make_board.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
