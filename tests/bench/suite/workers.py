"""Programs that stay loaded and answer each command line with a line of JSON."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Progress = Callable[[str], None]


class WorkerError(Exception):
    """The program refused a command, or ended; the text says why."""


class Worker:
    """One such program. `hello` is the line that it says of itself when it is ready."""

    def __init__(self, command: Sequence[str | Path], progress: Progress) -> None:
        self._progress = progress
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (as long as the program)
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.pid = self._process.pid
        self.hello = self._answer()

    def ask(self, command: str | dict[str, Any]) -> dict[str, Any]:
        """Sends a command (a dict as JSON) and waits for its answer; shows progress meanwhile.

        Raises:
            WorkerError: what the program says, or how it ended.
        """
        line = command if isinstance(command, str) else json.dumps(command)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._end() from None
        return self._answer()

    def close(self) -> None:
        """Ends the program and waits for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "progress" in answer:
                self._progress(f"{answer['progress']} of {answer['of']} tokens")
                continue
            if "error" in answer:
                raise WorkerError(answer["error"])
            return answer
        raise self._end()

    def _end(self) -> WorkerError:
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:] or [f"exit {code}"]
        return WorkerError(last[0])
