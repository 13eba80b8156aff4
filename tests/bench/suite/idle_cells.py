"""Bytes of very many idle sessions in memory and on disk, against what arithmetic says."""

from __future__ import annotations

import contextlib
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from suite.cells import Cell
from suite.lab import BIN, ROOT, Lab, Task, shown_command
from suite.serve_cells import Server, run_json
from suite.watch import resident_bytes

TINY = ROOT / "deploy" / "models" / "tiny" / "converted"
POOL_ROWS = 32  # more than there are callers, so that nothing is parked before its turn
WARM_UP = POOL_ROWS + 8  # sessions before the first look: rows and buffers that there are anyway
RECORD = 512  # bytes of a session besides its row, wherever it is
BLOCK = 4096  # bytes that a file takes at least, and that its size is rounded up to


@dataclass(frozen=True)
class Crowd:
    """Sessions of one model in one format."""

    title: str
    model: Path
    sessions: int
    memory: int  # --park_memory_bytes
    park_format: str


def idle_tiers(lab: Lab) -> Iterator[Task]:
    """Of the tiny model and of the one that is measured, exact and in bfloat16."""
    for park_format in ("f32", "bf16"):
        if lab.options.quick:
            crowds = [Crowd("the tiny model", TINY, 4_000, 64 << 20, park_format)]
        else:
            crowds = [
                Crowd("the tiny model", TINY, 100_000, 1 << 30, park_format),
                Crowd(lab.options.model.name, lab.options.model, 2_000, 2 << 30, park_format),
            ]
        for crowd in crowds:
            name = f"idle sessions, {crowd.title}, {park_format}"
            yield Task(name, crowd.sessions / 200, partial(idle, lab, crowd))


def metrics(server: Server) -> dict[str, float]:
    """Series of the server by name and tier, e.g. "gma_sessions disk"."""
    with urllib.request.urlopen(server.metrics_url, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        name, _, labels = series.partition("{")
        tier = next((p.split('"')[1] for p in labels.split(",") if p.startswith("tier=")), "")
        found[f"{name} {tier}".strip()] = float(value)
    return found


def settled(lab: Lab, server: Server) -> dict[str, float]:
    """Metrics once nothing is on its way to the store any more."""
    seen = metrics(server)
    while True:
        time.sleep(2)  # longer than --sync_seconds
        now = metrics(server)
        if (
            now["gma_sessions disk"] == seen["gma_sessions disk"]
            and not now["gma_store_lag_seconds"]
        ):
            return now
        lab.bar.note(f"{now['gma_sessions disk']:.0f} sessions on disk")
        seen = now


def disk_bytes(folder: Path) -> tuple[int, int]:
    """Of all files: what they hold, and what the file system takes for them."""
    held = taken = 0
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            held, taken = held + stat.st_size, taken + stat.st_blocks * 512
    return held, taken


def idle(lab: Lab, crowd: Crowd) -> list[Cell]:
    """Opens them over gRPC, a turn each, and looks at process and files."""
    lab.close_workers()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        flags = [f"--max_sessions={POOL_ROWS}", f"--park_memory_bytes={crowd.memory}"]
        flags += [f"--state_dir={state}", f"--park_format={crowd.park_format}"]
        flags += ["--checkpoint_bytes=0", "--prefix_bytes=0", "--max_sessions_per_owner=1000000"]
        flags += ["--park_disk_bytes=0", f"--owner_disk_bytes={1 << 50}", "--session_ttl=168h"]
        with contextlib.closing(Server(lab, *flags, model=crowd.model)) as server:
            command = [str(BIN / "session_bench"), "--server", server.address, "idle", "--sessions"]
            run_json([*command, str(WARM_UP)])
            before = settled(lab, server)
            resident = resident_bytes(server.pid)
            report = run_json([*command, str(crowd.sessions)])
            after = settled(lab, server)
            grown = resident_bytes(server.pid) - resident
            held, taken = disk_bytes(state)
            shown = f"{shown_command(server.command)}; {shown_command(command)} {crowd.sessions}"
    parked = parked_row_bytes(after)
    more_memory = after["gma_sessions memory"] - before["gma_sessions memory"]
    more_disk = after["gma_sessions disk"] - before["gma_sessions disk"]
    on_disk = after["gma_sessions disk"]
    file = -(-(parked + RECORD) // BLOCK) * BLOCK
    details = {
        "in_memory": after["gma_sessions memory"],
        "on_disk": on_disk,
        "parked_row_bytes": parked,
        "file_bytes": held,
        "seconds": report["seconds"],
        "refused": report["refused"],
    }
    title = f"idle sessions, {crowd.sessions:,} of {crowd.title}, {crowd.park_format}"
    # A session that is not on disk has a journal there: one block.
    awake = after["gma_sessions memory"] + after["gma_sessions pool"]
    memory = more_memory * (parked + RECORD) + more_disk * RECORD
    disk = on_disk * file + awake * BLOCK
    return [
        Cell(
            name=f"{title}: {where}",
            ours=ours / 1e6,
            unit="MB",
            reference=wanted / 1e6,
            reference_name="arithmetic",
            command=shown,
            bound=bound,
            foreign=0.0,
            details=details,
        )
        for where, ours, wanted, bound in (
            ("memory", grown, memory, f"row + {RECORD} B in memory, {RECORD} B on disk"),
            ("disk", taken, disk, f"row + {RECORD} B in blocks of {BLOCK} B, a journal's block"),
        )
    ]


def parked_row_bytes(seen: dict[str, float]) -> float:
    """Of one row in memory, as the server counts them."""
    return seen["gma_session_parked_bytes"] / seen["gma_sessions memory"]
