"""Readings of two or more sides, taken in turn so that a change of the machine meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from suite.watch import Watch

# One busy process beside it costs a decoder that spins most of its speed (SPEED.md 7).
DISTURBED_CORES = 0.08
RETRIES = 2
SETTLE_SECONDS = 0.03  # threads of the side before stop spinning


@dataclass
class Reading:
    """One measurement: its value, cores that others used meanwhile, what else was reported."""

    value: float
    foreign: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Series:
    """The readings of one side. Disturbed ones count only when there are no others."""

    readings: list[Reading]

    @property
    def counted(self) -> list[Reading]:
        """The readings that the properties below are of."""
        calm = [reading for reading in self.readings if reading.foreign <= DISTURBED_CORES]
        return calm or self.readings

    @property
    def median(self) -> float:
        """Of the values."""
        return statistics.median(reading.value for reading in self.counted)

    @property
    def foreign(self) -> float:
        """Cores that others used, in the worst reading that counts."""
        return max(reading.foreign for reading in self.counted)

    def detail(self, name: str) -> float:
        """Median of something else that every reading reported."""
        return statistics.median(reading.details[name] for reading in self.counted)


Side = Callable[[], tuple[float, dict[str, Any]]]  # measures; returns value and details


class Sampler:
    """Takes readings; a disturbed one is taken again while there is time."""

    def __init__(self, repeats: int, retry_until: float, progress: Callable[[str], None]) -> None:
        self.repeats = repeats
        self._retry_until = retry_until  # of time.monotonic()
        self._progress = progress

    def read(self, side: Side, pids: Iterable[int]) -> Reading:
        """The reading that others disturbed least, of up to 1 + RETRIES."""
        best: Reading | None = None
        for attempt in range(1 + RETRIES):
            if attempt > 0 and time.monotonic() > self._retry_until:
                break
            time.sleep(SETTLE_SECONDS)
            watch = Watch(pids)
            value, details = side()
            reading = Reading(value, watch.foreign_cores(), details)
            if best is None or reading.foreign < best.foreign:
                best = reading
            if best.foreign <= DISTURBED_CORES:
                break
            self._progress(f"{reading.foreign:.2f} cores were used by others: again")
        assert best is not None
        return best

    def take_turns(
        self, what: str, sides: Mapping[str, Side], pids: Iterable[int]
    ) -> dict[str, Series]:
        """`repeats` readings of every side, one of each in turn."""
        pids = tuple(pids)
        readings: dict[str, list[Reading]] = {name: [] for name in sides}
        for turn in range(self.repeats):
            for name, side in sides.items():
                self._progress(f"{what}: {name} {turn + 1}/{self.repeats}")
                readings[name].append(self.read(side, pids))
        return {name: Series(taken) for name, taken in readings.items()}
