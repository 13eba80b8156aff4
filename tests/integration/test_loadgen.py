"""gma-loadgen against the real server: the figures must add up."""

import json
import signal
import subprocess

import pytest
from test_chat_cli import BIN, pipe, start


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    process, address = start(tmp_path_factory.mktemp("server"), "--max_sessions", "512")
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


def load(address, *flags):
    run = pipe(address, b"", "--json", *flags, binary="gma-loadgen", timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def check(result):
    requests = result["requests"]
    assert requests["started"] == (
        requests["succeeded"] + requests["cancelled"] + requests["failed"]
    )
    for name in ("first_token", "inter_token", "inter_message", "end_to_end"):
        figures = result[f"{name}_seconds"]
        assert 0 <= figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"]
        assert figures["mean"] <= figures["max"]
    assert result["wall_seconds"] > 0


@pytest.mark.parametrize("streams", [1, 8, 64])
def test_streams(address, streams):
    requests = 4 + streams
    flags = ["--streams", str(streams), "--requests", str(requests)]
    result = load(address, *flags, "--prompt_tokens", "20", "--max_tokens", "16", "--ignore_eos")
    check(result)
    assert result["requests"]["succeeded"] == requests
    assert result["errors"] == {}
    assert result["tokens"] == {"prompt": 20 * requests, "completion": 16 * requests}
    assert result["first_token_seconds"]["count"] == requests
    assert result["inter_token_seconds"]["count"] == 15 * requests
    assert result["end_to_end_seconds"]["max"] <= result["wall_seconds"]
    assert result["first_token_seconds"]["max"] <= result["end_to_end_seconds"]["max"]
    rate = result["tokens"]["completion"] / result["wall_seconds"]
    assert result["completion_tokens_per_second"] == pytest.approx(rate)


def test_open_loop(address):
    flags = ["--rate", "50", "--duration", "1", "--max_tokens", "4", "--ignore_eos"]
    result = load(address, *flags, "--connections", "2")
    check(result)
    # A Poisson count of mean 50: beyond these bounds once in a million seeds, and the seed is set.
    assert 20 <= result["requests"]["started"] <= 90
    assert result["requests"]["succeeded"] == result["requests"]["started"]
    again = load(address, *flags)
    assert again["requests"]["started"] == result["requests"]["started"]


def test_cancels_slow_readers_and_errors(address):
    result = load(
        address,
        *["--streams", "32", "--requests", "64", "--max_tokens", "64", "--ignore_eos"],
        *["--cancels", "0.5", "--slow_readers", "0.2", "--slow_read_delay", "0.01"],
    )
    check(result)
    assert result["requests"]["cancelled"] > 5
    assert result["requests"]["slow_readers"] > 2
    assert result["requests"]["failed"] == 0
    bad = pipe(
        address, b"", "--json", "--temperature", "-1", "--requests", "3", binary="gma-loadgen"
    )
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["errors"]["INVALID_ARGUMENT"]["count"] == 3


def test_hundreds_of_streams_at_once(address):
    flags = ["--streams", "500", "--requests", "500", "--max_tokens", "4", "--ignore_eos"]
    result = load(address, *flags, "--prompt_tokens", "4")
    check(result)
    # A server may refuse what does not fit its queue, and says so; nothing else goes wrong.
    assert set(result["errors"]) <= {"RESOURCE_EXHAUSTED"}
    assert result["requests"]["succeeded"] >= 250


def test_the_table_and_ctrl_c(address):
    table = pipe(address, b"", "--requests", "2", "--max_tokens", "4", binary="gma-loadgen")
    assert table.returncode == 0
    assert b"first token" in table.stdout
    assert b"2 succeeded" in table.stdout
    command = [BIN / "gma-loadgen", "--server", address, "--max_tokens", "1000000", "--ignore_eos"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.5)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"1 cancelled" in shown
