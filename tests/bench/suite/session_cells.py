"""Cells of calls on sessions, each at a short and at a very long context, beside a decode step."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from suite.cells import Cell
from suite.lab import BIN, ROOT, Lab, Task, shown_command
from suite.serve_cells import Server, run_json
from suite.watch import Watch
from suite.workers import WorkerError

SHORT = 10  # tokens
FULL_WINDOWS = 300  # tokens after which a step does all that it ever does
# Of tools/soak: a session of 10^6 tokens, and the key that it is sealed with.
SOAKED = ROOT / "build" / "soak"
FINGERPRINT = slice(16, 48)  # of a blob


class LongSession:
    """Where the long session comes from: the soaked one of this model, else it is fed."""

    def __init__(self, lab: Lab) -> None:
        folder = SOAKED / lab.options.model.name
        self.blob, self.key = folder / "session.gma", folder / "state.key"
        self._tokens = 10_000 if lab.options.quick else 100_000
        self.soaked = False
        if self.blob.exists():
            served = lab.ours(lab.options.weights, 2).hello["fingerprint"]
            with self.blob.open("rb") as file:
                self.soaked = file.read(FINGERPRINT.stop)[FINGERPRINT].hex() == served

    def server_flags(self) -> list[str]:
        """The key of the blob."""
        return ["--state_key", str(self.key)] if self.soaked else []

    def bench_flags(self) -> list[str]:
        """The blob, or how long a session is to be fed."""
        return ["--blob", str(self.blob)] if self.soaked else ["--long", str(self._tokens)]


def sessions(lab: Lab) -> Iterator[Task]:
    """Three servers: one with rows enough, one that parks, one that only decodes."""
    yield Task("calls on sessions", 40, partial(calls, lab))
    yield Task("parking and waking", 40, partial(tiers, lab))
    yield Task("decode in a long session", 30, partial(decode, lab))


def row_bytes(lab: Lab) -> int:
    """Of a state row."""
    return int(lab.ours(lab.options.weights, 2).hello["row_bytes"])


def figures(
    lab: Lab, what: str, server_flags: list[str], bench_flags: list[str]
) -> tuple[dict[str, Any], str, float]:
    """The report of session_bench, the commands, and cores that others used."""
    source = LongSession(lab)
    lab.close_workers()
    lab.bar.note(f"session_bench {what}")
    with contextlib.closing(Server(lab, *server_flags, *source.server_flags())) as server:
        command = [str(BIN / "session_bench"), "--server", server.address, what]
        command += [*bench_flags, *source.bench_flags()]
        watch = Watch([server.pid])
        report = run_json(command)
        foreign = watch.foreign_cores()
        shown = f"{shown_command(server.command)}; {shown_command(command)}"
    return report, shown, foreign


# In the order of the table.
CALLS = (
    "decode step",
    "fork",
    "64 forks",
    "checkpoint",
    "rewind to a checkpoint",
    "rewind, 100 tokens again",
    "export",
    "import",
    "resume, first event",
    "park in memory (with an Open)",
    "wake from memory",
    "wake from memory, another parks for it",
    "park on disk",
    "wake from disk",
)


def cells_of(
    report: dict[str, Any], steps: dict[str, Any], shown: str, foreign: float
) -> list[Cell]:
    """One for each call and context; `steps`: of a decode step, by context."""
    return [
        Cell(
            name=f"{what}, context {int(context):,}",
            ours=times["median_ms"],
            unit="ms",
            reference=steps[context]["median_ms"] if context in steps else None,
            reference_name="decode step" if context in steps else "",
            command=shown,
            bound="a decode step through the same server",
            foreign=foreign,
            details={"p99_ms": times["p99_ms"], "readings": times["readings"]},
        )
        for what, contexts in sorted(report.items(), key=lambda item: CALLS.index(item[0]))
        for context, times in sorted(contexts.items(), key=lambda item: int(item[0]))
    ]


def calls(lab: Lab) -> list[Cell]:
    """Fork, checkpoint, rewind, export, import, resume: no store, one checkpoint a session."""
    flags = ["--max_sessions=72", "--prefix_bytes=0", f"--checkpoint_bytes={row_bytes(lab)}"]
    repeats = ["--repeats", "20" if lab.options.quick else "100"]
    report, shown, foreign = figures(lab, "calls", flags, repeats)
    steps = report.pop("decode step")
    return cells_of({"decode step": steps}, {}, shown, foreign) + cells_of(
        report, steps, shown, foreign
    )


def tiers(lab: Lab) -> list[Cell]:
    """Two rows in the pool and three in memory, so that a few sessions drive another one down."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        flags = ["--max_sessions=2", "--prefix_bytes=0", "--checkpoint_bytes=0"]
        flags += [f"--park_memory_bytes={3 * row_bytes(lab)}", f"--state_dir={state}"]
        repeats = ["--repeats", "20" if lab.options.quick else "100"]
        report, shown, foreign = figures(lab, "tiers", flags, repeats)
    return cells_of(report, {}, shown, foreign)


def decode(lab: Lab) -> list[Cell]:
    """A step of the long session over one of the other, answer by answer in turn."""
    flags = ["--max_sessions=4", "--prefix_bytes=0", "--checkpoint_bytes=0"]
    bench = ["--short", str(FULL_WINDOWS), "--repeats", "10" if lab.options.quick else "40"]
    report, shown, foreign = figures(lab, "decode", flags, bench)
    by_context = {int(context): times for context, times in report["decode step"].items()}
    if len(by_context) != 2:
        raise WorkerError(f"session_bench decode told of {len(by_context)} sessions")
    short, long = min(by_context), max(by_context)
    return [
        Cell(
            name=f"decode step at context {long:,} over context {short}",
            ours=by_context[long]["median_ms"],
            unit="ms",
            reference=by_context[short]["median_ms"],
            reference_name=f"context {short}",
            command=shown,
            bound="the other session, answer by answer in turn",
            foreign=foreign,
            details={"readings": by_context[long]["readings"]},
        )
    ]
