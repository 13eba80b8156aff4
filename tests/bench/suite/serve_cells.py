"""Cells of the whole server: through gRPC on loopback, beside the engine alone."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from suite.cells import Cell, with_threads
from suite.lab import BIN, ROOT, Lab, Task, shown_command
from suite.sampling import Side
from suite.step_cells import worst
from suite.watch import resident_bytes, thread_seconds
from suite.workers import WorkerError

THREADS = 2
PROMPT, ANSWER = 32, 32  # tokens of a request
SHORT_PROMPT = 16
SESSION_TOKENS = 300  # fills every window of the default model, so that the whole row is used
STUBS = ROOT / "build" / "bench-client"
# A thread with this share of the busiest one's processor time belongs to the model, not to gRPC.
MODEL_THREAD_SHARE = 0.1


class Server:
    """gma-server on free ports of loopback."""

    def __init__(self, lab: Lab, *more_flags: str, model: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        ports = Path(self._folder.name) / "ports.json"
        self.command = [str(BIN / "gma-server"), "--model", str(model or lab.options.model)]
        self.command += ["--weights", lab.options.weights, "--threads", str(THREADS)]
        if lab.options.decoder:
            self.command += ["--decoder", lab.options.decoder]
        self.command += more_flags
        flags = ["--listen", "127.0.0.1:0", "--metrics_listen", "127.0.0.1:0"]
        log = Path(self._folder.name) / "log"
        with log.open("w") as out:
            command = [*self.command, *flags, "--port_file", str(ports)]
            self._process = subprocess.Popen(command, stderr=out, stdout=out)
        self.pid = self._process.pid
        while not ports.exists():
            if self._process.poll() is not None:
                last = log.read_text().strip().splitlines()[-1:]
                self._folder.cleanup()
                raise WorkerError(f"gma-server ended: {' '.join(last)}")
            lab.bar.note("gma-server loads the model")
            time.sleep(0.05)
        told = json.loads(ports.read_text())
        self.address = f"127.0.0.1:{told['grpc']}"
        self.metrics_url = f"http://127.0.0.1:{told['metrics']}/metrics"

    def close(self) -> None:
        """Ends it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def run_json(command: list[str]) -> dict[str, Any]:
    """Runs a program that prints one JSON object."""
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        last = (run.stderr or run.stdout).strip().splitlines()[-1:]
        raise WorkerError(f"{Path(command[0]).name}: {' '.join(last)}")
    return json.loads(run.stdout)


def engine_command(lab: Lab, streams: int, requests: int) -> list[str]:
    """engine_bench with the load of `load_command`."""
    command = [str(BIN / "engine_bench"), str(lab.options.model)]
    command += [f"--weights={lab.options.weights}", f"--threads={THREADS}"]
    if lab.options.decoder:
        command.append(f"--decoder={lab.options.decoder}")
    command += [f"--streams={streams}", f"--requests={requests}"]
    return [*command, f"--prompt_tokens={PROMPT}", f"--max_tokens={ANSWER}"]


def load_command(address: str, streams: int, requests: int, prompt: int, answer: int) -> list[str]:
    """gma-loadgen: so many requests at once, each followed by another."""
    command = [str(BIN / "gma-loadgen"), "--server", address, "--streams", str(streams)]
    command += ["--requests", str(requests), "--prompt_tokens", str(prompt)]
    return [*command, "--max_tokens", str(answer), "--ignore_eos", "--json"]


def loaded(server: Server, command: list[str]) -> dict[str, Any]:
    """The report of gma-loadgen, and what each message cost the server besides the model."""
    before = thread_seconds(server.pid)
    report = run_json(command)
    if report["requests"]["failed"]:
        raise WorkerError(f"{report['requests']['failed']} requests failed: {report['errors']}")
    spent = [
        seconds - before.get(thread, 0.0) for thread, seconds in thread_seconds(server.pid).items()
    ]
    other = sum(seconds for seconds in spent if seconds < MODEL_THREAD_SHARE * max(spent))
    messages = report["inter_message_seconds"]["count"] + report["first_token_seconds"]["count"]
    report["seconds_per_message"] = other / messages
    return report


def serving(lab: Lab) -> Iterator[Task]:
    """Several numbers of streams."""
    for streams in (1, 16) if lab.options.quick else (1, 16, 64):
        yield Task(f"serve {streams} streams", 25, partial(serve, lab, streams))


def serve(lab: Lab, streams: int) -> list[Cell]:
    """Tokens a second through gRPC and by the engine alone, in turn."""
    lab.close_workers()
    requests = streams * (2 if lab.options.quick else 4) if streams > 1 else 4
    engine = engine_command(lab, streams, requests)
    weights = lab.options.weights
    with contextlib.closing(Server(lab)) as server:
        load = load_command(server.address, streams, requests, PROMPT, ANSWER)

        def through_grpc() -> tuple[float, dict[str, Any]]:
            report = loaded(server, load)
            return report["completion_tokens_per_second"], report

        def alone() -> tuple[float, dict[str, Any]]:
            report = run_json(engine)
            return report["tokens_per_second"], report

        name = with_threads(f"serve {streams} streams, {weights}", THREADS)
        sides: dict[str, Side] = {"gRPC": through_grpc, "engine alone": alone}
        through_grpc()  # connections, first use of memory
        taken = lab.sampler.take_turns(name, sides, [server.pid])
    shown = shown_command(server.command)
    cells = [
        Cell(
            name=name,
            ours=taken["gRPC"].median,
            unit="tokens/s",
            reference=taken["engine alone"].median,
            reference_name="engine alone",
            command=f"{shown}; {shown_command(load)}",
            bound=shown_command(engine),
            foreign=worst(taken),
        )
    ]
    if streams == 16:
        cells.append(
            Cell(
                name=f"server processor time a message, {streams} streams",
                ours=1e6 * taken["gRPC"].detail("seconds_per_message"),
                unit="us",
                reference=None,
                reference_name="",
                command=f"{shown}; {shown_command(load)}",
                bound="threads of the model left out",
                foreign=taken["gRPC"].foreign,
            )
        )
    return cells


def first_tokens(lab: Lab) -> Iterator[Task]:
    """One cell."""
    yield Task("first token", 8, partial(first_token, lab))


def first_token(lab: Lab) -> list[Cell]:
    """Time to the first token of a short prompt, one request after another."""
    lab.close_workers()
    with contextlib.closing(Server(lab)) as server:
        load = load_command(server.address, 1, 20 if lab.options.quick else 100, SHORT_PROMPT, 2)

        def measure() -> tuple[float, dict[str, Any]]:
            report = run_json(load)
            return 1e3 * report["first_token_seconds"]["p50"], {
                "p99": 1e3 * report["first_token_seconds"]["p99"]
            }

        measure()
        name = with_threads(
            f"first token, prompt of {SHORT_PROMPT}, {lab.options.weights}", THREADS
        )
        taken = lab.sampler.take_turns(name, {"gRPC": measure}, [server.pid])["gRPC"]
    return [
        Cell(
            name=name,
            ours=taken.median,
            unit="ms",
            reference=None,
            reference_name="",
            command=f"{shown_command(server.command)}; {shown_command(load)}",
            bound="median of the requests",
            foreign=taken.foreign,
            details={"p99_ms": taken.detail("p99")},
        )
    ]


def idle_sessions(lab: Lab) -> Iterator[Task]:
    """The row alone, and with the checkpoints that a server keeps by default."""
    for name, flags in (
        ("resident bytes of an idle session, no checkpoints", ("--checkpoint_bytes=0",)),
        ("resident bytes of an idle session, one turn's checkpoint", ()),
    ):
        yield Task(name, 12, partial(idle_session, lab, name, flags))


def idle_session(lab: Lab, name: str, flags: tuple[str, ...]) -> list[Cell]:
    """Memory of the server before and after some sessions that then do nothing."""
    lab.close_workers()
    if not (STUBS / "gma_client" / "_proto").is_dir():
        lab.bar.note("building the Python client")
        base = ROOT / "build" / "bench-client-objects"
        command = [sys.executable, "setup.py", "--quiet", "build", f"--build-base={base}"]
        command.append(f"--build-lib={STUBS}")
        folder = ROOT / "client" / "python"
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
    sys.path.insert(0, str(STUBS))
    from gma_client import Client

    first, more = 4, 16 if lab.options.quick else 64
    tokens = list(range(100, 100 + SESSION_TOKENS))

    def open_sessions(client: Client, count: int) -> None:
        for index in range(count):
            lab.bar.note(f"session {index + 1} of {count}")
            client.append(client.open_session().session_id, tokens, wait_if_busy=True)

    with contextlib.closing(Server(lab, *flags)) as server, Client(server.address) as client:
        open_sessions(client, first)  # buffers of the server itself
        before = resident_bytes(server.pid)
        open_sessions(client, more)
        time.sleep(0.2)
        grown = (resident_bytes(server.pid) - before) / more
        row_bytes = client.model().state_bytes
        command = shown_command(server.command)
    return [
        Cell(
            name=name,
            ours=grown,
            unit="bytes",
            reference=row_bytes,
            reference_name="state row",
            command=f"{command}; {more} sessions of {SESSION_TOKENS} tokens each",
            bound="the state row",
            foreign=0.0,
        )
    ]
