"""gma-chat against the real server: in a pseudo-terminal and in pipes."""

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from chat_terminal import ChatTerminal

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("GMA_BUILD_DIR", ROOT / "build" / "release")) / "bin"
MODEL = ROOT / "deploy" / "models" / "tiny" / "converted"


def start(folder, *flags, listen="127.0.0.1:0"):
    ports = folder / "ports.json"
    command = [BIN / "gma-server", "--model", MODEL, "--listen", listen]
    command += ["--metrics_listen", "127.0.0.1:0", "--port_file", ports, *flags]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    end = time.monotonic() + 60
    while not ports.exists():
        assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.05)
    return process, f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    process, address = start(tmp_path_factory.mktemp("server"), "--max_sessions", "70")
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


@pytest.fixture
def home(tmp_path):
    return tmp_path


def chat(address, home, *flags):
    command = [BIN / "gma-chat", "--server", address, "--max_tokens", "8", "--seed", "1", *flags]
    return ChatTerminal(command, home)


def pipe(address, text, *flags, binary="gma-chat", timeout=60):
    return subprocess.run(
        [BIN / binary, "--server", address, *flags],
        input=text,
        capture_output=True,
        timeout=timeout,
    )


def test_a_conversation_in_a_terminal(address, home):
    with chat(address, home) as terminal:
        banner = terminal.wait_for_prompt()
        assert "bytes, at any length" in banner
        first = terminal.ask("Hello there")
        assert len(first.strip()) > len("Hello there")
        stats = terminal.ask("/stats")
        assert "8 tokens in" in stats or "tokens in" in stats
        assert "first token" in stats
        context = int(stats.split("context")[1].split()[0].replace(",", ""))
        state = stats.split("state")[1].split()[0]
        terminal.ask("And again")
        later = terminal.ask("/stats")
        assert int(later.split("context")[1].split()[0].replace(",", "")) > context
        assert later.split("state")[1].split()[0] == state
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(address, home):
    with chat(address, home, "--min_tokens", "1000000", "--max_tokens", "1000000") as terminal:
        terminal.wait_for_prompt()
        terminal.type("Talk for ever\r")
        terminal.wait_until_longer(400)
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for_prompt()
        # The session is as good as before.
        terminal.ask("/set min_tokens 0")
        terminal.ask("/set max_tokens 4")
        assert "error" not in terminal.ask("Hello again").lower()
        assert "answers" in terminal.ask("/stats")
        assert terminal.process.poll() is None
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0


def test_ctrl_c_at_the_prompt_drops_the_line(address, home):
    with chat(address, home) as terminal:
        terminal.wait_for_prompt()
        terminal.type("/nonsense")
        terminal.wait_for("/nonsense")
        terminal.type("\x03")
        terminal.wait_for_prompt()
        assert "no command" not in terminal.ask("/help")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_commands(address, home):
    with chat(address, home) as terminal:
        terminal.wait_for_prompt()
        assert "/stats" in terminal.ask("/help")
        assert "temperature" in terminal.ask("/set")
        assert "temperature is 0" in terminal.ask("/set temperature 0")
        assert "must be a number" in terminal.ask("/set temperature hot")
        assert "there are: temperature" in terminal.ask("/set temprature 1")
        assert "no command /frobnicate" in terminal.ask("/frobnicate")
        assert "fingerprint" in terminal.ask("/model")
        session = terminal.ask("/session").split("session")[2].split()[0]
        assert len(session) == 32
        assert "fresh session" in terminal.ask("/new")
        assert session not in terminal.ask("/session")
        assert "fresh session" in terminal.ask("/system You are a pirate.")
        # What the server refuses is an error line, and the chat goes on.
        terminal.ask("/set top_p 7")
        assert "top_p" in terminal.ask("Hello")
        terminal.ask("/set top_p 1")
        assert "INVALID" not in terminal.ask("Hello")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0


def context_of(terminal):
    shown = terminal.ask("/session")
    return int(shown.split("context")[1].split()[0].replace(",", ""))


def test_going_back_in_a_conversation(address, home):
    with chat(address, home, "--temperature", "0") as terminal:
        terminal.wait_for_prompt()
        assert "nothing that was said here" in terminal.ask("/undo")
        first = terminal.ask("Hello there")
        after_one = context_of(terminal)
        kept = terminal.ask("/save greeting")
        assert "kept as greeting" in kept
        second = terminal.ask("And again")
        assert "as before: And again" in terminal.ask("/undo")
        assert context_of(terminal) == after_one
        # Greedy: the same message at the same place has the same answer.
        assert terminal.ask("And again") == second
        terminal.ask("/undo")
        terminal.ask("/undo")
        assert context_of(terminal) == 0
        # The chat opens as a fresh one does.
        assert terminal.ask("Hello there") == first
        assert context_of(terminal) == after_one
        terminal.ask("Something else")
        assert "back at" in terminal.ask("/load greeting")
        assert context_of(terminal) == after_one
        assert terminal.ask("And again") == second
        assert "no checkpoint" in terminal.ask("/load never")
        assert "rewind.checkpoint is 0 bytes" in terminal.ask("/load")
        assert "kept as 1" in terminal.ask("/save")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_retry_draws_another_answer(address, home):
    with chat(address, home, "--temperature", "2", "--top_p", "1") as terminal:
        terminal.wait_for_prompt()
        first = terminal.ask("Hello there")
        context = context_of(terminal)
        answers = {terminal.ask("/retry") for _ in range(3)}
        assert len(answers) > 1
        assert first not in answers
        assert context_of(terminal) <= context  # as if it was said once
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_forks_in_a_chat(address, home):
    with chat(address, home, "--temperature", "0") as terminal:
        terminal.wait_for_prompt()
        terminal.ask("Hello there")
        context = context_of(terminal)
        forked = terminal.ask("/fork")
        copy = forked.split("copy now, ")[1][:32]
        first = forked.split("/goto ")[1][:32]
        assert copy != first
        in_copy = terminal.ask("And again")
        assert context_of(terminal) > context
        assert first in terminal.ask(f"/goto {first}")
        assert context_of(terminal) == context
        assert terminal.ask("And again") == in_copy
        assert copy in terminal.ask(f"/goto {copy[:8]}")
        assert "as before" in terminal.ask("/undo")
        assert "as before" in terminal.ask("/undo")  # what was said before the fork
        assert context_of(terminal) == 0
        assert "NOT_FOUND" in terminal.ask(f"/goto {'0' * 32}")
        assert "missing" in terminal.ask("/goto")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    # Neither outlives the chat.
    for session in (copy, first):
        gone = pipe(address, b"Hello\n", "--session", session)
        assert b"NOT_FOUND" in gone.stderr


def test_greedy_answers_repeat_and_a_backslash_goes_on(address, home):
    with chat(address, home, "--temperature", "0") as terminal:
        terminal.wait_for_prompt()
        terminal.type("one\\\r")
        terminal.wait_for(". ")
        terminal.type("two\r")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    history = (home / ".gma_chat_history").read_text()
    assert "one" in history
    assert "two" in history


def test_history_is_private_and_comes_back(address, home):
    with chat(address, home) as terminal:
        terminal.wait_for_prompt()
        terminal.ask("remember the milk")
        terminal.ask("/help")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    history = home / ".gma_chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with chat(address, home) as terminal:
        terminal.wait_for_prompt()
        terminal.type("\x1b[A")
        terminal.wait_for("/help")
        terminal.type("\x1b[A")
        terminal.wait_for("remember the milk")
        terminal.type("\x05 again\r")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    assert "remember\\040the\\040milk\\040again" in history.read_text()


def test_editing_knows_characters(address, home):
    with chat(address, home) as terminal:
        terminal.wait_for_prompt()
        # Two characters back over multi-byte letters, then one in between.
        terminal.type("/äöü\x7f\x7fx\r")
        assert "no command /äx" in terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_sigterm_gives_the_terminal_back(address, home):
    with chat(address, home) as terminal:
        terminal.wait_for_prompt()
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 128 + signal.SIGTERM


def test_a_server_that_dies_is_said_and_survived(home, tmp_path):
    process, address = start(tmp_path)
    with chat(address, home, "--resume_for", "1") as terminal:
        terminal.wait_for_prompt()
        terminal.ask("Hello")
        process.kill()
        process.wait()
        assert "gma-chat:" in terminal.ask("Hello?")
        assert terminal.process.poll() is None
        terminal.type("\x04")
        terminal.wait_for_end()


def test_it_waits_for_a_server_that_starts_later(home, tmp_path):
    process, address = start(tmp_path)
    process.kill()
    process.wait()
    with chat(address, home, "--connect_timeout", "60") as terminal:
        terminal.wait_for("waiting for the server")
        (tmp_path / "ports.json").unlink()
        again, _ = start(tmp_path, listen=address)
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
        again.kill()
        again.wait()


def test_pipes_answer_each_line(address):
    flags = ["--max_tokens", "6", "--seed", "3"]
    one = pipe(address, b"Hello\n", *flags)
    assert one.returncode == 0, one.stderr
    assert one.stderr == b""
    assert b"\x1b" not in one.stdout
    assert one.stdout.endswith(b"\n")
    two = pipe(address, b"Hello\n\nAgain\n", *flags)
    assert two.returncode == 0
    assert two.stdout.startswith(one.stdout)
    assert len(two.stdout) > len(one.stdout)


def test_one_shot_streams_are_what_the_session_says(address):
    flags = ["--max_tokens", "12", "--temperature", "0"]
    shot = pipe(address, b"", "--prompt", "Once upon a time", *flags)
    assert shot.returncode == 0
    assert pipe(address, b"Once upon a time\n", *flags).stdout == shot.stdout
    raw = pipe(address, b"", "--prompt", "Once upon a time", "--raw", *flags)
    assert raw.stdout != shot.stdout
    system = pipe(address, b"", "--prompt", "Once upon a time", "--system", "Be brief.", *flags)
    assert system.stdout != shot.stdout


def test_a_kept_session_goes_on(address):
    flags = ["--max_tokens", "6", "--temperature", "0"]
    kept = pipe(address, b"My name is Ada\n", "--keep", *flags)
    assert kept.returncode == 0
    session = kept.stderr.decode().split("--session ")[1].strip()
    resumed = pipe(address, b"Who am I?\n", "--session", session, *flags)
    assert resumed.returncode == 0
    fresh = pipe(address, b"Who am I?\n", *flags)
    assert resumed.stdout != fresh.stdout
    shot = pipe(address, b"", "--session", session, "--prompt", "And now?", *flags)
    assert shot.returncode == 0
    begun = pipe(address, b"", "--keep", "--prompt", "My name is Ada", *flags)
    assert begun.stdout == kept.stdout
    session = begun.stderr.decode().split("--session ")[1].strip()
    assert pipe(address, b"Who am I?\n", "--session", session, *flags).stdout == resumed.stdout


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--frobnicate"], b"--frobnicate"),
        (["--temperature", "hot"], b"must be a number"),
        (["--connect_timeout", "-1"], b"connect_timeout"),
        (["--tls", "--tls_ca_file", "/nonexistent"], b"/nonexistent"),
    ],
)
def test_a_bad_flag_is_one_clear_line(flags, wanted):
    for binary in ("gma-chat", "gma-loadgen"):
        if flags[0] == "--temperature" and binary == "gma-loadgen":
            wanted = b"temperature"
        run = pipe("127.0.0.1:1", b"", *flags, binary=binary)
        assert run.returncode == 2
        assert run.stdout == b""
        assert run.stderr.count(b"\n") == 1
        assert wanted in run.stderr


def test_failures_are_one_clear_line_and_an_exit_code(address):
    nobody = pipe("127.0.0.1:1", b"hi\n", "--connect_timeout", "0.3")
    assert nobody.returncode == 1
    assert nobody.stderr.count(b"\n") == 1
    assert b"127.0.0.1:1" in nobody.stderr
    refused = pipe(address, b"hi\n", "--top_p", "7")
    assert refused.returncode == 1
    assert b"top_p" in refused.stderr
    unknown = pipe(address, b"hi\n", "--session", "0" * 32)
    assert unknown.returncode == 1
    assert b"NOT_FOUND" in unknown.stderr
    assert pipe(address, b"", "--version").stdout.startswith(b"gma-chat ")


def test_an_output_that_is_closed_ends_the_program(address):
    command = f"{BIN}/gma-chat --server {address} --min_tokens 1000000 --max_tokens 1000000 "
    command += "--prompt x | head -c 20"
    start_time = time.monotonic()
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=60)
    assert time.monotonic() - start_time < 60
