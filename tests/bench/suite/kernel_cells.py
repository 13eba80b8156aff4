"""Cells of single kernels, from the lines of mixer_bench."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

from suite.cells import Cell
from suite.lab import BIN, Lab, Task, shown_command
from suite.workers import WorkerError

# The two kinds of layer that the default model has.
LAYERS = ("window 64", "window 256")


def kernels(lab: Lab) -> Iterator[Task]:
    """The mixer alone; one run measures all."""
    yield Task("mixer kernel", 8, partial(mixer, lab))


def mixer(lab: Lab) -> list[Cell]:
    """Time of a token and memory head: the widest instruction set, and the reference kernel."""
    command = [str(BIN / "mixer_bench"), f"--seconds={lab.seconds / 10}", "--only=window"]

    def run() -> tuple[float, dict[str, Any]]:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise WorkerError(f"mixer_bench: {done.stderr.strip()}")
        return 0.0, {"text": done.stdout}

    reading = lab.sampler.read(run, lab.pids())
    return [
        Cell(
            name=f"mixer, {layer}, {where}",
            ours=ours,
            unit="us",
            reference=reference,
            reference_name="reference kernel",
            command=shown_command(command),
            bound="microseconds a token and memory head, one thread; ratio: times as fast",
            foreign=reading.foreign,
            ratio=reference / ours,
        )
        for layer in LAYERS
        for where, ours, reference in times(reading.details["text"], layer)
    ]


def times(text: str, layer: str) -> Iterator[tuple[str, float, float]]:
    """(state where, ours, reference) of a layer; its first line is the widest instruction set."""
    ours = re.search(
        rf"^{layer} +\w+ +warm +([\d.]+) +cold +([\d.]+) +prefill +([\d.]+)", text, re.MULTILINE
    )
    reference = re.search(rf"^{layer} +reference warm +([\d.]+)", text, re.MULTILINE)
    if ours is None or reference is None:
        raise WorkerError(f"mixer_bench says nothing of {layer!r}")
    yield "state in cache", float(ours[1]), float(reference[1])
    yield "prefill", float(ours[3]), float(reference[1])
