"""The bench itself: what it judges, what it takes for foreign, a short run on the tiny model."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("GMA_BUILD_DIR", ROOT / "build" / "release")) / "bin"
TINY = ROOT / "deploy" / "models" / "tiny" / "converted"
sys.path.insert(0, str(ROOT / "tests" / "bench"))

from suite.cells import GATES, Cell  # noqa: E402
from suite.sampling import Reading, Series  # noqa: E402
from suite.watch import Watch, process_seconds  # noqa: E402
from suite.workers import Worker, WorkerError  # noqa: E402


def cell(name, ours, reference, foreign=0.0):
    return Cell(name, ours, "tokens/s", reference, "llama.cpp", "", "", foreign)


@pytest.mark.parametrize(
    ("name", "ours", "reference", "verdict"),
    [
        ("decode batch 32, int8, 2 threads", 2.1, 1.0, "below gate"),
        ("decode batch 32, int8, 2 threads", 2.2, 1.0, "gate met"),
        ("decode batch 32, int8, 2 threads", 2.8, 1.0, "aim met"),
        ("decode batch 32, int8, 2 threads", 2.8, None, "no peer"),
        ("decode batch 32, bf16, 2 threads", 0.1, 1.0, ""),
        ("time per token at context 1000000, int8, 2 threads", 1.03, 1.0, "below gate"),
        ("time per token at context 1000000, int8, 2 threads", 1.01, 1.0, "gate met"),
        ("first token, prompt of 16, int8, 2 threads", 61.0, None, "below gate"),
        ("first token, prompt of 16, int8, 2 threads", 59.0, None, "gate met"),
    ],
)
def test_a_cell_is_held_against_its_gate(name, ours, reference, verdict):
    assert cell(name, ours, reference).verdict == verdict
    assert cell(name, ours, reference, foreign=0.09).verdict == "disturbed"


def test_every_aim_is_beyond_its_gate():
    for name, gate in GATES.items():
        if gate.aim is not None:
            assert (gate.aim > gate.must) == (gate.on == "ratio at least"), name


def test_json_of_a_cell():
    made = cell("decode batch 1, int8, 1 thread", 3.0, 2.0).to_json()
    shown = ("name", "ours", "unit", "reference", "reference_name", "ratio", "gate")
    values = ["decode batch 1, int8, 1 thread", 3.0, "tokens/s", 2.0, "llama.cpp", 1.5, 1.6]
    assert [made[name] for name in shown] == values


def test_disturbed_readings_count_only_without_others():
    calm, busy = Reading(10.0, 0.01), Reading(1.0, 0.9)
    assert Series([busy, calm, busy]).median == 10.0
    assert Series([busy, calm, busy]).foreign == 0.01
    assert Series([busy, busy]).median == 1.0
    assert Series([busy, busy]).foreign == 0.9


def test_processor_time_is_foreign_unless_the_process_is_named():
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        named, unnamed, start = Watch([spin.pid]), Watch([]), time.monotonic()
        while process_seconds(spin.pid) < 0.5:
            time.sleep(0.05)
        elapsed = time.monotonic() - start
        difference = unnamed.foreign_cores() - named.foreign_cores()
        # The two clocks tick every 10 ms.
        assert difference == pytest.approx(0.5 / elapsed, abs=0.1 / elapsed)
    finally:
        spin.kill()
        spin.wait()


def test_step_bench_answers_commands_and_refusals():
    notes = []
    worker = Worker([BIN / "step_bench", TINY, "--weights=int8", "--threads=1"], notes.append)
    assert worker.hello["weight_bytes"] > 0
    assert worker.hello["state_traffic_bytes"] > worker.hello["row_bytes"]
    for command in ("decode 4 16 8 0.01", "prefill 64 0.01", "depth 300 0 5", "depth 300 64 5"):
        assert worker.ask(command)["tokens_per_second"] > 0
    assert worker.ask("depth 300 0 5")["feed_seconds"] == 0  # fed already
    for bad in ("decode 0 1 1 1", "decode 65 1 1 1", "depth 1 1", "nonsense"):
        with pytest.raises(WorkerError):
            worker.ask(bad)
    worker.close()
    with pytest.raises(WorkerError, match="int3"):
        Worker([BIN / "step_bench", TINY, "--weights=int3"], notes.append)


def test_a_short_run_writes_what_it_prints(tmp_path):
    out = tmp_path / "bench.json"
    program = [sys.executable, ROOT / "tests" / "bench" / "bench.py"]
    flags = [
        "--quick",
        "--model",
        TINY,
        "--only",
        "kernel|first_token|idle$|session",
        "--json",
        out,
    ]
    run = subprocess.run([*program, *flags], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    result = json.loads(out.read_text())
    assert result["missing"] == []
    cells = {made["name"]: made for made in result["cells"]}
    assert cells["mixer, window 64, prefill"]["ratio"] > 0
    # Rows of the tiny model share huge pages, so a session may add nothing; its checkpoint does.
    assert cells["resident bytes of an idle session, one turn's checkpoint"]["ratio"] > 0.5
    assert cells.pop("resident bytes of an idle session, no checkpoints")["ratio"] >= 0
    assert all(made["ours"] > 0 and made["name"] in run.stdout for made in cells.values())
    assert cells["first token, prompt of 16, int8, 2 threads"]["gate"] == 60
    assert cells["wake from disk, context 10"]["gate"] == 20
    forks = cells["64 forks, context 10,000"]
    assert forks["readings"] == 5 and forks["reference_name"] == "decode step"
    table = subprocess.run([*program, "--markdown", out], capture_output=True, text=True)
    assert table.stdout.count("\n| ") == len(result["cells"]) + 1
