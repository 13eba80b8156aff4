"""Cells of the decoder alone, beside the machine and beside llama.cpp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from suite.cells import Cell, with_threads
from suite.lab import BITS, PEER_FORMATS, Lab, Missing, Task, shown_command, side
from suite.sampling import Series, Side
from suite.workers import Worker

PROMPT = 128  # tokens before the first of a batch cell
FULL_WINDOW = 256  # tokens after which the default model's windows are full
TOKENS = 128  # of a single stream
DEPTH_STEPS = 32
RATE = "tokens_per_second"


def machine(lab: Lab, when: str = "before") -> Iterator[Task]:
    """Read bandwidth and float32 peak, before or after all else."""
    for threads in lab.thread_counts:
        yield Task(
            with_threads(f"machine {when}", threads),
            3,
            partial(read_bandwidth_and_peak, lab, when, threads),
        )


def read_bandwidth_and_peak(lab: Lab, when: str, threads: int) -> list[Cell]:
    """What machine_probe measures."""
    probe, cells = lab.probe(), []
    for what, title, unit, value in (
        ("read", "read bandwidth", "GB/s", "bytes_per_second"),
        ("fma", "float32 multiply-adds", "GFLOP/s", "flop_per_second"),
    ):
        command = f"{what} {threads} {lab.seconds}"
        taken = lab.sampler.take_turns(title, {"probe": side(probe, command, value)}, lab.pids())
        cells.append(
            Cell(
                name=with_threads(f"machine {when}: {title}", threads),
                ours=taken["probe"].median / 1e9,
                unit=unit,
                reference=None,
                reference_name="",
                command=f'echo "{command}" | build/release/bin/machine_probe',
                bound="",
                foreign=taken["probe"].foreign,
            )
        )
    return cells


def bandwidth_shares(lab: Lab) -> Iterator[Task]:
    """Every format, one stream."""
    for threads in lab.thread_counts:
        for weights in BITS:
            name = with_threads(f"share of read bandwidth, {weights}", threads)
            yield Task(name, 5, partial(bandwidth_share, lab, name, weights, threads))


def bandwidth_share(lab: Lab, name: str, weights: str, threads: int) -> list[Cell]:
    """Batch 1: bytes of weights and state moved a second, over the probe's."""
    worker, probe = lab.ours(weights, threads), lab.probe()
    command = f"decode 1 {FULL_WINDOW} {TOKENS} {lab.seconds}"
    sides = {
        "ours": side(worker, command, RATE),
        "probe": side(probe, f"read {threads} {lab.seconds}", "bytes_per_second"),
    }
    taken = lab.sampler.take_turns(name, sides, lab.pids())
    moved = worker.hello["weight_bytes"] + worker.hello["state_traffic_bytes"]
    return [
        Cell(
            name=name,
            ours=moved * taken["ours"].median / 1e9,
            unit="GB/s",
            reference=taken["probe"].median / 1e9,
            reference_name="read bandwidth",
            command=our_command(lab, command, weights, threads),
            bound="read bandwidth of the same minute",
            foreign=worst(taken),
            details={
                "tokens_per_second": taken["ours"].median,
                "bytes_per_step": moved,
                "row_bytes": worker.hello["row_bytes"],
            },
        )
    ]


def our_command(lab: Lab, command: str, weights: str, threads: int) -> str:
    """What can be typed to measure ours again."""
    return f'echo "{command}" | {shown_command(lab.step_command(weights, threads))}'


def worst(taken: Mapping[str, Series]) -> float:
    """Cores that others used in the worst reading of any side."""
    return max(series.foreign for series in taken.values())


def settings_of(
    lab: Lab, request: dict[str, Any], peers: list[tuple[str, Worker]]
) -> dict[str, Side]:
    """Sides of the peer: every format with flash attention off and on; --quick: the best in one
    trial of each."""
    sides: dict[str, Side] = {}
    # On CPUs flash attention is the slower one by far once a context is long, and feeding 4096
    # tokens with it takes most of the time that --quick has.
    deep = lab.options.quick and request.get("depth", 0) > 1024
    for title, worker in peers:
        for flash in (False,) if deep else (False, True):
            name = f"llama.cpp {title}, flash attention {'on' if flash else 'off'}"
            sides[name] = side(worker, request | {"flash": flash}, RATE)
    if not lab.options.quick or len(sides) == 1:
        return sides
    trials = {}
    for name, trial in sides.items():
        lab.bar.note(f"trial: {name}")
        trials[name] = lab.sampler.read(trial, lab.pids()).value
    best = max(trials, key=trials.__getitem__)
    return {best: sides[best]}


def beside_peer(
    lab: Lab,
    name: str,
    weights: str,
    threads: int,
    command: str,
    request: dict[str, Any],
    formats: tuple[str, ...],
) -> tuple[Cell, Series]:
    """A cell of ours in turn with the peer, and our readings; without a peer ours alone."""
    sides = {"ours": side(lab.ours(weights, threads), command, RATE)}
    with contextlib.suppress(Missing):
        peers = [(title, lab.peer(title)) for title in formats]
        sides |= settings_of(lab, request | {"threads": threads}, peers)
    taken = lab.sampler.take_turns(name, sides, lab.pids())
    ours = taken.pop("ours")
    best = max(taken, key=lambda title: taken[title].median, default="")
    cell = Cell(
        name=name,
        ours=ours.median,
        unit="tokens/s",
        reference=taken[best].median if best else None,
        reference_name=best,
        command=our_command(lab, command, weights, threads),
        bound="llama_decode, the better of flash attention on and off",
        foreign=max(ours.foreign, taken[best].foreign) if best else ours.foreign,
        details={"settings": {title: series.median for title, series in taken.items()}},
    )
    return cell, ours


def decode(lab: Lab, name: str, weights: str, threads: int, rows: int, peer: str) -> list[Cell]:
    """Decode of `rows` streams with a prompt of PROMPT tokens each."""
    limit = TOKENS if rows == 1 else DEPTH_STEPS
    request = {"op": "decode", "rows": rows, "prompt": PROMPT, "limit": limit}
    request["seconds"] = lab.seconds
    command = f"decode {rows} {PROMPT} {limit} {lab.seconds}"
    return [beside_peer(lab, name, weights, threads, command, request, (peer,))[0]]


def batch_one(lab: Lab) -> Iterator[Task]:
    """One stream at equal bits."""
    for threads in lab.thread_counts:
        for weights in ("bf16", "int8", "int4"):
            name = with_threads(f"decode batch 1, {weights}", threads)
            peer = PEER_FORMATS[weights]
            yield Task(name, 6, partial(decode, lab, name, weights, threads, 1, peer))
    if not lab.options.quick:
        name = "decode batch 1, int4 beside the packaged Q4_1, 2 threads"
        yield Task(name, 6, partial(decode, lab, name, "int4", 2, 1, "Q4_1"))


def batches(lab: Lab) -> Iterator[Task]:
    """Several streams."""
    weights = lab.options.weights
    for threads in (2,) if lab.options.quick else lab.thread_counts:
        for rows in (4, 16, 32):
            name = with_threads(f"decode batch {rows}, {weights}", threads)
            peer = PEER_FORMATS[weights]
            yield Task(name, 8, partial(decode, lab, name, weights, threads, rows, peer))


def prefills(lab: Lab) -> Iterator[Task]:
    """A prompt of 512 tokens."""
    for threads in (2,) if lab.options.quick else lab.thread_counts:
        yield Task(with_threads("prefill 512", threads), 20, partial(prefill, lab, threads))


def prefill(lab: Lab, threads: int) -> list[Cell]:
    """Beside the fastest of the peer's formats, and beside the peak of multiply-adds."""
    weights, count = lab.options.weights, 512
    command = f"prefill {count} {lab.seconds}"
    request = {"op": "prefill", "tokens": count, "seconds": lab.seconds}
    name = with_threads(f"prefill 512, {weights}", threads)
    cell, ours = beside_peer(lab, name, weights, threads, command, request, ("F16", "Q8_0", "Q4_0"))
    hello = lab.ours(weights, threads).hello
    # Matrix products alone, and the head for one token only: no more than is done.
    flop = 2 * (hello["layer_parameters"] + hello["head_parameters"] / count)
    fma = side(lab.probe(), f"fma {threads} {lab.seconds}", "flop_per_second")
    peak = lab.sampler.take_turns("float32 peak", {"probe": fma}, lab.pids())
    share = Cell(
        name=with_threads(f"prefill 512, share of float32 peak, {weights}", threads),
        ours=flop * ours.median / 1e9,
        unit="GFLOP/s",
        reference=peak["probe"].median / 1e9,
        reference_name="float32 multiply-adds",
        command=cell.command,
        bound="float32 peak of the same minute",
        foreign=max(ours.foreign, worst(peak)),
        details={"flop_per_token": flop},
    )
    return [cell, share]


def depths(lab: Lab) -> Iterator[Task]:
    """One stream that already has many tokens. Both sides are fed them once."""
    deepest = 4096 if lab.options.quick else 16384
    for depth in (0, 1024, 4096, 16384):
        # Threads within a depth: the tokens before are fed once.
        for threads in (2,) if lab.options.quick else lab.thread_counts:
            if depth <= deepest:
                name = with_threads(f"decode at context {depth}, {lab.options.weights}", threads)
                seconds = 6 + depth / 100
                yield Task(name, seconds, partial(at_depth, lab, name, threads, depth, deepest))


def at_depth(lab: Lab, name: str, threads: int, depth: int, room: int) -> list[Cell]:
    """Ours and the peer's at one depth; `room` is the deepest that the peer makes room for."""
    weights = lab.options.weights
    command = f"depth {depth} 0 {DEPTH_STEPS}"
    request = {"op": "depth", "depth": depth, "room": room, "steps": DEPTH_STEPS}
    cell, ours = beside_peer(
        lab, name, weights, threads, command, request, (PEER_FORMATS[weights],)
    )
    cell.details["seconds_over_fresh"] = ours.detail("seconds_over_base")
    return [cell]


def million(lab: Lab) -> Iterator[Task]:
    """Deep in a stream; takes as long as 10^6 tokens of prefill."""
    if not lab.options.quick:
        yield Task("context 1000000", 1200, partial(at_million, lab))


def at_million(lab: Lab) -> list[Cell]:
    """Time of a token after 10^6 tokens over that of a row at its first, step by step in turn."""
    weights, depth, threads, minutes = lab.options.weights, 1_000_000, 2, 45
    worker = lab.ours(weights, threads)
    rate = float(worker.ask("prefill 512 1")[RATE])
    if depth / rate > 60 * minutes:
        raise Missing(f"10^6 tokens would take {depth / rate / 60:.0f} minutes, limit {minutes}")
    worker.ask(f"depth {depth} 0 1")  # fed here, so that the readings do not wait for it
    cells = []
    for base, where in ((0, "fresh row"), (FULL_WINDOW, "row with full windows")):
        command = f"depth {depth} {base} 100"
        over = "" if base == 0 else f" over context {base}"
        name = with_threads(f"time per token at context {depth}{over}, {weights}", threads)
        step = {"ours": side(worker, command, "step_seconds")}
        taken = lab.sampler.take_turns(name, step, lab.pids())
        ratio = taken["ours"].detail("seconds_over_base")
        cells.append(
            Cell(
                name=name,
                ours=1e3 * taken["ours"].median,
                unit="ms",
                reference=1e3 * taken["ours"].median / ratio,
                reference_name=where,
                command=our_command(lab, command, weights, threads),
                bound="the other row, in turn with the deep one",
                foreign=worst(taken),
                ratio=ratio,
            )
        )
    return cells
