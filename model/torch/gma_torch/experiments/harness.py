"""What every experiment shares: its command line, its finished cells, its table and its figure.

An experiment is a config dataclass, a list of cells (one row of numbers each: a variant, a seed, a
length) and a function that runs one. Finished cells stand in results.jsonl and are not run again;
a cell that trains keeps a checkpoint in its own folder, written about once a minute.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from tqdm import tqdm

from gma_torch.checkpoint import CheckpointError, replace_file
from gma_torch.config import ConfigError
from gma_torch.tokenizer import TokenizerError
from gma_torch.train.errors import TrainError

Cell = dict[str, Any]
Result = dict[str, Any]


@dataclass
class Experiment:
    """One experiment.

    Attributes:
        name: of the command. about: first lines of its table.
        config: its dataclass; every field becomes a flag.
        cells: config -> what to run; each cell has a unique "name".
        run: (config, cell, folder of the cell) -> numbers, as JSON.
        columns: results (cell and numbers in one dict) -> rows of the table.
        figure: (results, path of the picture).
    """

    name: str
    about: str
    config: type
    cells: Callable[[Any], list[Cell]]
    run: Callable[[Any, Cell, Path], Result]
    rows: Callable[[list[Result]], list[dict[str, Any]]]
    figure: Callable[[list[Result], Path], None]

    def main(self, argv: list[str] | None = None) -> int:
        """The command; returns the exit status: 0, 2 for a mistake of the user, 130 for Ctrl-C."""
        args = vars(_parser(self).parse_args(argv))
        out, threads = args.pop("out"), args.pop("threads")
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            self.execute(self.config(**args), out)
        except (TrainError, ConfigError, CheckpointError, TokenizerError, OSError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted; the same command goes on", file=sys.stderr)
            return 130
        return 0

    def execute(self, config: Any, out: Path) -> list[Result]:
        """Runs the cells that are not finished, then writes table and figure."""
        cells = self.cells(config)
        out.mkdir(parents=True, exist_ok=True)
        _same_config(out / "config.json", asdict(config))
        log = out / "results.jsonl"
        done = {result["name"]: result for result in _finished(log)}
        for cell in tqdm(cells, desc=self.name, unit="cell", dynamic_ncols=True):
            if cell["name"] in done:
                continue
            folder = out / "cells" / cell["name"]
            folder.mkdir(parents=True, exist_ok=True)
            done[cell["name"]] = {**cell, **self.run(config, cell, folder)}
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[cell["name"]]) + "\n")
            shutil.rmtree(folder)
        results = [done[cell["name"]] for cell in cells]
        rows = self.rows(results)
        text = f"{self.about}\n\n{markdown(rows)}\n"
        replace_file(out / "table.md", text.encode())
        content = {"config": asdict(config), "rows": rows, "results": results}
        replace_file(out / "table.json", (json.dumps(content, indent=1) + "\n").encode())
        self.figure(results, out / "figure.png")
        print(text)
        return results


def _parser(experiment: Experiment) -> argparse.ArgumentParser:
    """A flag a field of the config: numbers, texts, and lists of them."""
    parser = argparse.ArgumentParser(prog=experiment.name, description=experiment.about)
    parser.add_argument("--out", type=Path, required=True, help="folder of results; resumes there")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    hints = get_type_hints(experiment.config)
    for item in fields(experiment.config):
        kind = hints[item.name]
        default = getattr(experiment.config(), item.name)
        more: dict[str, Any] = {"type": kind}
        if kind in (list[int], list[str]):
            more = {"type": int if kind == list[int] else str, "nargs": "+"}
        parser.add_argument(f"--{item.name}", default=default, help=f"(default {default})", **more)
    return parser


def _same_config(path: Path, content: dict[str, Any]) -> None:
    """Results of different settings do not share a folder."""
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in content if old.get(key) != content[key])
        if changed:
            raise TrainError(
                f"--out {path.parent} has results with --{changed[0]} {old.get(changed[0])}: "
                "use the same settings or another folder"
            )
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def _finished(log: Path) -> list[Result]:
    """The finished cells; a last line that a kill cut short is dropped from the file."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]
    if lines[-1]:
        replace_file(log, "".join(line + "\n" for line in whole).encode())
    return [json.loads(line) for line in whole]


def require_file(path: Path) -> Path:
    """The path, or a clear error."""
    if not path.is_file():
        raise TrainError(f"{path}: no such file")
    return path


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; columns in order of first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_shown(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def over_seeds(results: list[Result], key: str) -> tuple[float, float]:
    """Mean and standard deviation (0 for one seed) of a number."""
    values = [result[key] for result in results]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def by_variant(results: list[Result], *keys: str) -> dict[tuple, list[Result]]:
    """Results that differ in their seed alone, together."""
    out: dict[tuple, list[Result]] = {}
    for result in results:
        out.setdefault(tuple(result[key] for key in keys), []).append(result)
    return out


def lines_figure(
    curves: dict[str, dict[str, float]], path: Path, *, x: str, y: str, log: bool = False
) -> None:
    """One line a variant; the points of all share their names."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), dpi=120)
    for name, points in curves.items():
        axis.plot(list(points), list(points.values()), marker="o", markersize=3, label=name)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_yscale("log" if log else "linear")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
