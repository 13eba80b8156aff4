"""gma-chat in a real pseudo-terminal: types, reads the screen's bytes, waits for what must come."""

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")
PROMPT = "> "


class ChatTerminal:
    """A running gma-chat; a context manager that ends it."""

    def __init__(self, command: list[str | Path], home: Path) -> None:
        environment = dict(os.environ, HOME=str(home), TERM="xterm", LC_ALL="C.UTF-8")
        environment.pop("GMA_API_KEY", None)
        self.master, slave = pty.openpty()
        # Wide, so that the line editor wraps nothing.
        termios.tcsetwinsize(slave, (50, 500))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(slave)
        self.raw = ""
        self._seen = 0  # characters of `text` that an earlier wait has passed

    @property
    def text(self) -> str:
        """All output so far, without escape sequences."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    def _read(self, timeout: float) -> bool:
        """Takes what is there; False at the end of the output."""
        ready, _, _ = select.select([self.master], [], [], timeout)
        if not ready:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)

    def wait_for(self, wanted: str, timeout: float = 30) -> str:
        """Waits until `wanted` comes after all that was waited for before; returns what came."""
        end = time.monotonic() + timeout
        while True:
            found = self.text.find(wanted, self._seen)
            if found >= 0:
                came = self.text[self._seen : found + len(wanted)]
                self._seen = found + len(wanted)
                return came
            if time.monotonic() > end or not self._read(0.1):
                raise AssertionError(f"{wanted!r} did not come; the terminal: {self.text!r}")

    def wait_until_longer(self, characters: int, timeout: float = 30) -> None:
        """Waits until so many characters more have come."""
        size = len(self.text) + characters
        end = time.monotonic() + timeout
        while len(self.text) < size:
            assert time.monotonic() < end and self._read(0.1), self.text

    def wait_for_prompt(self) -> str:
        """Waits for the prompt at the start of a line; returns what came before."""
        return self.wait_for("\n" + PROMPT)

    def type(self, keys: str) -> None:
        """Types keys; "\\r" is Enter, "\\x03" Ctrl-C, "\\x04" Ctrl-D."""
        os.write(self.master, keys.encode())

    def ask(self, line: str) -> str:
        """Types a line and returns what came until the next prompt."""
        self.type(line + "\r")
        return self.wait_for_prompt()

    def wait_for_end(self, timeout: float = 30) -> int:
        """Waits for the end of the program; its exit code."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self._read(0.05):
            pass
        return self.process.wait(timeout=5)

    def __enter__(self) -> "ChatTerminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
