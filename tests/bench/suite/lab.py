"""What every group of cells uses: options, programs that stay loaded, the sampler, the bar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.cells import Cell
from suite.progress import Bar
from suite.sampling import Sampler, Side
from suite.workers import Worker

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(os.environ.get("GMA_BUILD_DIR", ROOT / "build" / "release")) / "bin"
PEER_WORKER = Path(__file__).with_name("peer_worker.py")
# The format of the peer that has the same bits. float32 has none in the package's precision.
PEER_FORMATS = {"f32": "F16", "bf16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
BITS = {"f32": 32, "bf16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class Options:
    """Of a run."""

    model: Path
    quick: bool
    weights: str  # of the cells that are not about one format
    decoder: str  # empty: the default of the programs
    peer_python: Path | None  # of the environment with llama.cpp; None: no peer
    peer_models: Path


class Missing(Exception):
    """A cell cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Task:
    """Measures cells that belong together; `seconds` is about how long --quick needs."""

    name: str
    seconds: float
    measure: Callable[[], list[Cell]]


class Lab:
    """Programs are started when first asked for and stay until `close_workers`."""

    def __init__(self, options: Options, bar: Bar) -> None:
        self.options = options
        self.bar = bar
        # --quick stays under five minutes: beyond this time nothing is taken again.
        retry_until = time.monotonic() + (170 if options.quick else 3 * 3600)
        self.sampler = Sampler(3 if options.quick else 5, retry_until, bar.note)
        self._workers: dict[tuple[str, ...], Worker] = {}
        self._peer_paths: dict[str, str] | None = None

    @property
    def seconds(self) -> float:
        """Of one reading."""
        return 0.5 if self.options.quick else 1.5

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Of cells that have one for each."""
        return (2, 1)

    def ours(self, weights: str, threads: int) -> Worker:
        """step_bench with a format and a number of threads."""
        return self._worker(self.step_command(weights, threads))

    def step_command(self, weights: str, threads: int) -> tuple[str, ...]:
        """The command of step_bench."""
        flags = [f"--weights={weights}", f"--threads={threads}"]
        if self.options.decoder:
            flags.append(f"--decoder={self.options.decoder}")
        return (str(BIN / "step_bench"), str(self.options.model), *flags)

    def probe(self) -> Worker:
        """machine_probe."""
        return self._worker((str(BIN / "machine_probe"),))

    def peer(self, name: str) -> Worker:
        """llama.cpp with a format of the peer's model.

        Raises:
            Missing: the run has no peer.
        """
        python = self.options.peer_python
        if python is None:
            raise Missing("the run has no peer (--no_peer)")
        if self._peer_paths is None:
            self.bar.note("preparing the peer's models")
            command = [python, PEER_WORKER, "--prepare", self.options.peer_models]
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode != 0:
                last = made.stderr.strip().splitlines()[-1:]
                raise Missing(f"the peer's models could not be made: {' '.join(last)}")
            self._peer_paths = json.loads(made.stdout)["paths"]
        return self._worker((str(python), str(PEER_WORKER), self._peer_paths[name]))

    def pids(self) -> list[int]:
        """Of all programs that are loaded now."""
        return [worker.pid for worker in self._workers.values()]

    def close_workers(self) -> None:
        """Ends all programs."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _worker(self, command: tuple[str, ...]) -> Worker:
        if command not in self._workers:
            self.bar.note(f"loading {' '.join(Path(word).name for word in command[:3])}")
            self._workers[command] = Worker(command, self.bar.note)
        return self._workers[command]


def side(worker: Worker, command: str | dict[str, Any], value: str) -> Side:
    """A side of the sampler: asks the worker and takes one number of its answer as the value."""

    def measure() -> tuple[float, dict[str, Any]]:
        answer = worker.ask(command)
        return float(answer[value]), answer

    return measure


def shown_command(command: tuple[str, ...] | list[str]) -> str:
    """A command as it can be typed at the root of the repository."""
    root = f"{ROOT}/"
    words = [word.removeprefix(root) for word in command]
    if words[0] == sys.executable:
        words[0] = "python"
    return " ".join(words)
