"""A bar at the foot of the terminal, lines of results above it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

WIDTH = 24


class Bar:
    """Shows the share that is done, the time, and what is under way; silent off a terminal."""

    def __init__(self, weights: list[float], out: TextIO = sys.stderr) -> None:
        self._weights = weights  # expected seconds of each part
        self._out = out
        self._shown = out.isatty()
        self._start = time.monotonic()
        self._part, self._part_start, self._title = 0, self._start, ""

    def set_weights(self, weights: list[float]) -> None:
        """The parts are known only now."""
        self._weights = weights

    def begin(self, part: int, title: str) -> None:
        """Part `part` of the weights starts."""
        self._part, self._part_start, self._title = part, time.monotonic(), title
        self.note("")

    def note(self, text: str) -> None:
        """Redraws, with what is under way."""
        if not self._shown:
            return
        now = time.monotonic()
        expected = self._weights[self._part]
        within = min(0.95, (now - self._part_start) / expected) * expected
        share = (sum(self._weights[: self._part]) + within) / sum(self._weights)
        filled = round(WIDTH * share)
        minutes, seconds = divmod(int(now - self._start), 60)
        line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {minutes}:{seconds:02d} {self._title}"
        line = f"{line}  {text}"[: shutil.get_terminal_size().columns - 1]
        self._out.write(f"\r\033[K{line}")
        self._out.flush()

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            self._out.write("\r\033[K")
        self._out.write(text + "\n")
        self._out.flush()

    def close(self) -> None:
        """Takes the bar away."""
        if self._shown:
            self._out.write("\r\033[K")
            self._out.flush()
