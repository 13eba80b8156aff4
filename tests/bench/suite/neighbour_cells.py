"""What a busy neighbour leaves of the decoder's speed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from suite.cells import Cell, with_threads
from suite.lab import Lab, Task, side
from suite.step_cells import PROMPT, RATE, TOKENS, our_command, worst

BUSY_LOOP = "while True: pass"


def neighbour(lab: Lab) -> Iterator[Task]:
    """One stream on all processors, beside one process that never rests."""
    threads = max(lab.thread_counts)
    name = with_threads(f"decode beside a busy process, {lab.options.weights}", threads)
    yield Task(name, 6, partial(beside_busy_process, lab, name, threads))


def beside_busy_process(lab: Lab, name: str, threads: int) -> list[Cell]:
    """In turn with the neighbour stopped and running."""
    command = f"decode 1 {PROMPT} {TOKENS} {lab.seconds}"
    alone = side(lab.ours(lab.options.weights, threads), command, RATE)
    busy = subprocess.Popen([sys.executable, "-c", BUSY_LOOP])

    def beside() -> tuple[float, dict[str, Any]]:
        busy.send_signal(signal.SIGCONT)
        try:
            return alone()
        finally:
            busy.send_signal(signal.SIGSTOP)

    try:
        busy.send_signal(signal.SIGSTOP)
        sides = {"beside": beside, "alone": alone}
        taken = lab.sampler.take_turns(name, sides, [*lab.pids(), busy.pid])
    finally:
        busy.kill()
        busy.wait()
    return [
        Cell(
            name=name,
            ours=taken["beside"].median,
            unit="tokens/s",
            reference=taken["alone"].median,
            reference_name="without it",
            command=our_command(lab, command, lab.options.weights, threads),
            bound="the same decoder alone, in turn",
            foreign=worst(taken),
        )
    ]
