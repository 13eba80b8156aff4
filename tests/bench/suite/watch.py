"""What the processors did in a while: how much of it was ours."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable

TICK = os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Processor seconds since boot of all processes, and those that the host took away.

    Interrupts are left out: those of our own sockets would count as somebody else's.
    """
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, _irq, _soft, stolen = map(
            int, file.readline().split()[1:9]
        )
    return (user + nice + system + stolen) / TICK


def process_seconds(pid: int) -> float:
    """Processor seconds of a process with all its threads; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def thread_seconds(pid: int) -> dict[int, float]:
    """Processor seconds of each living thread of a process, exact to the nanosecond."""
    seconds = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                seconds[int(thread)] = int(file.read().split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return seconds


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Watch:
    """Cores that others used on average between its making and `foreign_cores`.

    Ours are this process, the processes `pids`, and children that ended meanwhile.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._start = time.monotonic()
        self._busy, self._own = busy_seconds(), self._own_seconds()

    def foreign_cores(self) -> float:
        """Never below 0: the two clocks tick in steps of 10 ms."""
        foreign = (busy_seconds() - self._busy) - (self._own_seconds() - self._own)
        return max(0.0, foreign / max(time.monotonic() - self._start, TICK**-1))

    def _own_seconds(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = time.process_time() + ended.ru_utime + ended.ru_stime
        return own + sum(process_seconds(pid) for pid in self._pids)
