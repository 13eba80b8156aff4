"""A cell of the table, and the gates that cells are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from suite.sampling import DISTURBED_CORES


def with_threads(name: str, threads: int) -> str:
    """The name of a cell that has one for each number of threads."""
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


@dataclass(frozen=True)
class Gate:
    """What a cell must reach, and what it aims at; `on` is the number that counts."""

    must: float
    aim: float | None = None
    on: Literal["ratio at least", "ratio at most", "ours at most"] = "ratio at least"


# By name of cell. The numbers are those of docs/BENCHMARKS.md, "Gates".
GATES: dict[str, Gate] = {
    **{
        with_threads(f"share of read bandwidth, {weights}", threads): gate
        for threads in (1, 2)
        for weights, gate in {
            "f32": Gate(0.75, 0.90),
            "bf16": Gate(0.75, 0.90),
            "int8": Gate(0.70, 0.85),
            "int4": Gate(0.60, 0.75),
        }.items()
    },
    **{
        with_threads(f"decode batch 1, {weights}", threads): gate
        for threads in (1, 2)
        for weights, gate in {
            "bf16": Gate(1.25, 1.5),
            "int8": Gate(1.6, 2.0),
            "int4": Gate(1.6, 2.2),
        }.items()
    },
    "decode batch 32, int8, 2 threads": Gate(2.2, 2.8),
    "decode at context 4096, int8, 2 threads": Gate(4.0, 6.0),
    "decode at context 16384, int8, 2 threads": Gate(12.0, 20.0),
    "prefill 512, int8, 2 threads": Gate(1.0, 1.2),
    "prefill 512, share of float32 peak, int8, 2 threads": Gate(0.60, 0.75),
    "decode beside a busy process, int8, 2 threads": Gate(0.40, 0.50),
    "serve 16 streams, int8, 2 threads": Gate(0.90, 0.97),
    "time per token at context 1000000, int8, 2 threads": Gate(1.02, 1.005, "ratio at most"),
    "first token, prompt of 16, int8, 2 threads": Gate(60.0, None, "ours at most"),
    **{
        f"{call}, context {context}": Gate(milliseconds, None, "ours at most")
        for context in ("10", "1,000,000")
        for call, milliseconds in {
            "wake from memory": 5.0,
            "wake from memory, another parks for it": 5.0,
            "wake from disk": 20.0,
        }.items()
    },
    "decode step at context 1,000,000 over context 300": Gate(1.02, 1.005, "ratio at most"),
    **{
        f"idle sessions, {crowd}, {kept}: {where}": Gate(1.05, None, "ratio at most")
        for crowd in ("100,000 of the tiny model", "2,000 of default")
        for kept in ("f32", "bf16")
        for where in ("memory", "disk")
    },
}


@dataclass
class Cell:
    """One line of the table. `ratio` is ours / reference unless it is given."""

    name: str
    ours: float
    unit: str
    reference: float | None
    reference_name: str
    command: str  # what measured ours
    bound: str  # what the number is held against, in words
    foreign: float  # cores that others used in the worst reading
    details: dict[str, Any] = field(default_factory=dict)
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is None and self.reference:
            self.ratio = self.ours / self.reference

    @property
    def gate(self) -> Gate | None:
        """The gate of this name, if there is one."""
        return GATES.get(self.name)

    @property
    def verdict(self) -> str:
        """A word or two for the table; a gate that is not met never fails the run."""
        if self.foreign > DISTURBED_CORES:
            return "disturbed"  # whatever the ratio, it says nothing
        if (gate := self.gate) is None:
            return ""
        value = self.ours if gate.on == "ours at most" else self.ratio
        if value is None:
            return "no peer"
        sign = 1 if gate.on == "ratio at least" else -1
        if gate.aim is not None and sign * value >= sign * gate.aim:
            return "aim met"
        return "gate met" if sign * value >= sign * gate.must else "below gate"

    def to_json(self) -> dict[str, Any]:
        """The cell as bench JSON has it."""
        gate = self.gate
        return {
            "name": self.name,
            "ours": self.ours,
            "unit": self.unit,
            "reference": self.reference,
            "reference_name": self.reference_name,
            "ratio": self.ratio,
            "gate": None if gate is None else gate.must,
            "aim": None if gate is None else gate.aim,
            "gate_on": None if gate is None else gate.on,
            "verdict": self.verdict,
            "foreign_cores": round(self.foreign, 3),
            "command": self.command,
            "bound": self.bound,
            **self.details,
        }
