"""The results as a table for a terminal, as JSON, and as a table for docs/BENCHMARKS.md."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from suite.cells import Cell

ROOT = Path(__file__).resolve().parents[3]


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    vectors = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if f in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": fields.get("model name", platform.machine()),
        "family_model_stepping": "/".join(
            fields.get(key, "?") for key in ("cpu family", "model", "stepping")
        ),
        "cores": os.cpu_count(),
        "vectors": vectors,
        "l3": fields.get("cache size", ""),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
    }


def commit() -> str:
    """Of the working tree; "+" when files differ from it."""

    def git(*words: str) -> str:
        command = ["git", *words]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def gate_text(cell: dict[str, Any]) -> str:
    """The gate with its direction and the aim in brackets."""
    if cell["gate"] is None:
        return ""
    sign = "≥" if cell["gate_on"] == "ratio at least" else "≤"
    aim = "" if cell["aim"] is None else f" ({cell['aim']:g})"
    return f"{sign} {cell['gate']:g}{aim}"


HEADS = ("cell", "ours", "unit", "reference", "of", "ratio", "gate (aim)", "")


def row(cell: dict[str, Any]) -> tuple[str, ...]:
    """A cell of the JSON under HEADS."""
    ratio = "-" if cell["ratio"] is None else f"{cell['ratio']:.2f}"
    if cell["gate_on"] == "ratio at most":
        ratio = f"{cell['ratio']:.4f}"
    return (
        cell["name"],
        number(cell["ours"]),
        cell["unit"],
        number(cell["reference"]),
        cell["reference_name"],
        ratio,
        gate_text(cell),
        cell["verdict"],
    )


def table(cells: list[dict[str, Any]]) -> str:
    """For a terminal: columns as wide as they need."""
    rows = [HEADS, *(row(cell) for cell in cells)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEADS))]
    numbers = {1, 3, 5}
    lines = []
    for line in rows:
        words = [
            word.rjust(width) if column in numbers else word.ljust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The tables of docs/BENCHMARKS.md, from the JSON of a run."""
    about = result["machine"]
    lines = [
        f"{about['processor']} ({about['family_model_stepping']}), {about['cores']} cores, "
        f"{' '.join(about['vectors'])}, {about['memory_gb']} GB; commit `{result['commit']}`, "
        f"model `{result['model'][:12]}`, {result['date']}, `{result['command']}`.",
        "",
        "| " + " | ".join((*HEADS[:-1], "verdict")) + " |",
        "|" + "---|" * len(HEADS),
    ]
    lines += ["| " + " | ".join(row(cell)) + " |" for cell in result["cells"]]
    if result["missing"]:
        lines += ["", "Not measured:"]
        lines += [f"- {missing['name']}: {missing['reason']}" for missing in result["missing"]]
    return "\n".join(lines)


def summary(cells: list[Cell]) -> str:
    """One line for a cell that was just measured."""
    return "\n".join(
        f"{cell.name}: {number(cell.ours)} {cell.unit}"
        + ("" if cell.ratio is None else f", {cell.ratio:.2f} x {cell.reference_name}")
        + ("" if not cell.verdict else f" ({cell.verdict})")
        for cell in cells
    )
