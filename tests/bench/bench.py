"""tools/bench: ours, the machine and llama.cpp in one run. Timing never fails it."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from suite import (
    idle_cells,
    kernel_cells,
    neighbour_cells,
    report,
    serve_cells,
    session_cells,
    step_cells,
)
from suite.cells import Cell
from suite.lab import BITS, ROOT, Lab, Missing, Options, Task
from suite.progress import Bar
from suite.workers import WorkerError

# In order of measuring. The machine stands first and last: it moves.
GROUPS: dict[str, Callable[[Lab], Iterator[Task]]] = {
    "machine": step_cells.machine,
    "kernel": kernel_cells.kernels,
    "share": step_cells.bandwidth_shares,
    "batch1": step_cells.batch_one,
    "batch": step_cells.batches,
    "prefill": step_cells.prefills,
    "depth": step_cells.depths,
    "million": step_cells.million,
    "neighbour": neighbour_cells.neighbour,
    "serve": serve_cells.serving,
    "first_token": serve_cells.first_tokens,
    "idle": serve_cells.idle_sessions,
    "session": session_cells.sessions,
    "idle_tiers": idle_cells.idle_tiers,
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags; tools/bench explains them."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--weights", default="int8", choices=list(BITS))
    parser.add_argument("--decoder", default="")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "models" / "default")
    parser.add_argument("--peer_python", type=Path)
    return parser.parse_args(arguments)


def measure(lab: Lab, tasks: list[Task]) -> tuple[list[Cell], list[dict[str, str]]]:
    """All cells, and the tasks that could not be done, with the reason."""
    cells: list[Cell] = []
    missing: list[dict[str, str]] = []
    for index, task in enumerate(tasks):
        lab.bar.begin(index, task.name)
        try:
            measured = task.measure()
        except (Missing, WorkerError) as error:
            missing.append({"name": task.name, "reason": str(error)})
            lab.bar.line(f"{task.name}: not measured: {error}")
            continue
        except KeyboardInterrupt:
            missing += [{"name": left.name, "reason": "interrupted"} for left in tasks[index:]]
            break
        cells += measured
        lab.bar.line(report.summary(measured))
    return cells, missing


def command(flags: argparse.Namespace) -> str:
    """What makes this run again."""
    words = ["tools/bench"] + (["--quick"] if flags.quick else [])
    words += [f"--only='{flags.only}'"] if flags.only else []
    words += [f"--weights={flags.weights}"] if flags.weights != "int8" else []
    words += [f"--decoder={flags.decoder}"] if flags.decoder else []
    words += ["--no_peer"] if flags.peer_python is None else []
    return " ".join(words)


def fingerprint(lab: Lab) -> str:
    """Of the model, as step_bench says it."""
    try:
        return str(lab.ours(lab.options.weights, 2).hello["fingerprint"])
    except WorkerError as error:
        return f"unknown ({error})"


def main() -> int:
    """Measures and prints; exit 0 whatever the numbers are."""
    flags = parse(sys.argv[1:])
    if flags.markdown is not None:
        print(report.markdown(json.loads(flags.markdown.read_text())))
        return 0
    options = Options(
        model=flags.model.resolve(),
        quick=flags.quick,
        weights=flags.weights,
        decoder=flags.decoder,
        peer_python=flags.peer_python,
        peer_models=ROOT / "build" / "bench-models",
    )
    bar = Bar([1.0])
    lab = Lab(options, bar)
    chosen = [name for name in GROUPS if re.search(flags.only, name)]
    tasks = [task for name in chosen for task in GROUPS[name](lab)]
    if "machine" in chosen and len(chosen) > 1:
        tasks += step_cells.machine(lab, "after")
    bar.set_weights([task.seconds * (1 if flags.quick else 4) for task in tasks])
    for number in (signal.SIGINT, signal.SIGTERM):  # what was measured is printed either way
        signal.signal(number, signal.default_int_handler)
    start = time.monotonic()
    result: dict[str, Any] = {
        "machine": report.machine(),
        "commit": report.commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": command(flags),
        "model": fingerprint(lab),
    }
    try:
        cells, result["missing"] = measure(lab, tasks)
    finally:
        lab.close_workers()
        bar.close()
    result["seconds"] = round(time.monotonic() - start)
    result["cells"] = [cell.to_json() for cell in cells]
    print(report.table(result["cells"]))
    for missing in result["missing"]:
        print(f"not measured: {missing['name']}: {missing['reason']}")
    print(f"{len(cells)} cells in {result['seconds']} s, commit {result['commit']}")
    if flags.json is not None:
        flags.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
