"""A real server, a real Prometheus and real load: what the board and the rules ask is answered.

Environment: GMA_BUILD_DIR (default build/release) holds bin/gma-server, gma-loadgen and gma-chat.
Needs Debian's `prometheus`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from metrics_text import describe

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / os.environ.get("GMA_BUILD_DIR", "build/release") / "bin"
MODEL = ROOT / "deploy/models/tiny/converted"
RULES = ROOT / "deploy/prometheus"
BOARD = ROOT / "deploy/grafana/gma_server.json"
GOLDEN = ROOT / "tests/integration/metrics_golden.txt"
PATIENCE = 120.0  # seconds until a thing that must come is given up
ROW_BYTES = 49728  # of the tiny model
KEPT = 8  # sessions that stay open, of which the pool holds four
# A comparison of an alert with its threshold: a number, or a product in brackets.
THRESHOLD = re.compile(r"\s*(?:==|>=|<=|>|<)\s*(?:[\d.]+|\([\d.]+ \* [\d.]+\))(?=\s|$)")


def fetch(address: str) -> str:
    """Body of an HTTP answer."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


def wait_for(what: str, ready: Callable[[], Any]) -> Any:
    """The first true value of `ready`."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if value := ready():
                return value
        except (urllib.error.URLError, ConnectionError, FileNotFoundError):
            pass
        assert time.monotonic() < end, f"{what} did not come in {PATIENCE} s"
        time.sleep(0.2)


def free_port() -> int:
    """A port of the loopback interface that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Stack:
    """The running programs."""

    server: subprocess.Popen[bytes]
    grpc: str
    metrics: str
    prometheus: str

    def api(self, path: str, **parameters: str) -> Any:
        """Data of an answer of Prometheus' HTTP API."""
        query = urllib.parse.urlencode(parameters)
        return json.loads(fetch(f"{self.prometheus}/api/v1/{path}?{query}"))["data"]

    def values(self, expression: str) -> list[float]:
        """Values of an expression now, one a series."""
        found = self.api("query", query=expression)["result"]
        return [float(series["value"][1]) for series in found]

    def load(self) -> None:
        """Answers without a session, two turns on one, then more sessions than the pool has rows.

        All programs must succeed.
        """
        common = {"cwd": ROOT, "check": True, "stdout": subprocess.DEVNULL, "timeout": PATIENCE}
        server = ["--server", self.grpc]
        load = ["--streams", "4", "--duration", "6", "--max_tokens", "24", "--ignore_eos"]
        subprocess.run([BIN / "gma-loadgen", *server, *load], **common)
        chat = [BIN / "gma-chat", *server, "--max_tokens", "8"]
        subprocess.run(chat, input=b"Hello there\nAnd again\n", **common)
        # A text that is long enough to be found again.
        keep = [*chat, "--keep", "--system", "Be brief, and answer with one short sentence alone."]
        told = {"stderr": subprocess.PIPE, "input": b"Hello there\n"}
        kept = [subprocess.run(keep, **told, **common) for _ in range(KEPT)]
        moved = 'gma_sessions{tier="disk"} > 0'
        wait_for("a session on disk", lambda: self.values(moved))
        for done in kept:
            session = done.stderr.decode().split("--session ")[1].strip()
            subprocess.run([*chat, "--session", session], input=b"And again\n", **common)


def write_config(folder: Path, metrics: str) -> Path:
    """The shipped configuration, but for the server's port and a short interval."""
    text = (RULES / "prometheus.yml").read_text(encoding="utf-8")
    for old, new, count in (("15s", "1s", 2), ("127.0.0.1:9464", metrics, 1)):
        assert text.count(old) == count, f"prometheus.yml no longer holds {old}"
        text = text.replace(old, new)
    shutil.copy(RULES / "rules.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Server and Prometheus under load that has just ended."""
    folder = tmp_path_factory.mktemp("stack")
    ports = folder / "ports.json"
    listen = ["--listen", "127.0.0.1:0", "--metrics_listen", "127.0.0.1:0", "--port_file", ports]
    # Room for three parked rows, of which one is kept free; checkpoints would take it.
    tiers = ["--max_sessions", "4", "--park_memory_bytes", str(3 * ROW_BYTES)]
    tiers += ["--checkpoint_bytes", "0", "--state_dir", folder / "state"]
    server = subprocess.Popen(
        [BIN / "gma-server", "--model", MODEL, "--log_level", "warning", *listen, *tiers]
    )
    prometheus: subprocess.Popen[bytes] | None = None
    try:
        wait_for("the server", lambda: server.poll() is not None or ports.exists())
        assert server.poll() is None, "gma-server ended"
        port = wait_for("its ports", lambda: json.loads(ports.read_text() or "{}"))
        metrics = f"127.0.0.1:{port['metrics']}"
        web = f"127.0.0.1:{free_port()}"
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={write_config(folder, metrics)}", "--log.level=warn",
             f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={web}"],
            cwd=folder,
        )  # fmt: skip
        made = Stack(server, f"127.0.0.1:{port['grpc']}", f"http://{metrics}", f"http://{web}")
        wait_for("a scrape", lambda: made.values("up == 1"))
        made.load()
        # The last of the load is scraped, and the rules have seen it.
        fed = f"gma_session_context_tokens_count == {2 + 2 * KEPT}"
        wait_for("the turns of the session", lambda: made.values(fed))
        slow = "model_name:gma_inter_token_slow:ratio_rate5m >= 0"
        wait_for("the rules", lambda: made.values(slow))
        yield made
    finally:
        for process in (server, prometheus):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)


def board_panels() -> list[dict[str, Any]]:
    """Panels of the board, without headings."""
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_every_expression_of_the_board_has_data(stack: Stack) -> None:
    """Each returns a series with a number, not just NaN."""
    count = 0
    for panel in board_panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m")
            expression = re.sub(r"\$\w+", ".*", expression)
            found = stack.values(expression)
            assert any(map(math.isfinite, found)), f"{panel['title']}: {expression} gave {found}"
            count += 1
    assert count > 40


def test_every_rule_has_data(stack: Stack) -> None:
    """Prometheus evaluates each rule, and each has something to say.

    An alert is silent while all is well, so its expression runs without its thresholds: what it
    watches must exist, and the sides of an `and` must share their labels.
    """
    groups = stack.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    for rule in rules:
        assert rule["health"] == "ok", rule.get("lastError")
        watched, thresholds = THRESHOLD.subn("", rule["query"])
        assert (thresholds > 0) == (rule["type"] == "alerting"), rule["query"]
        found = stack.values(watched)
        assert any(map(math.isfinite, found)), f"{rule['name']}: {watched} gave {found}"
        if rule["type"] == "recording":
            assert stack.values(rule["name"]), f"{rule['name']} records nothing"


def test_load_is_counted(stack: Stack) -> None:
    """The numbers are those of the load, not just numbers."""

    def total(expression: str) -> float:
        return sum(stack.values(expression))

    answers = total("gma_request_success_total")
    assert answers >= 5  # four streams and a turn, at the least
    assert total("gma_request_generation_tokens_count") == answers
    assert total("gma_request_generation_tokens_sum") == total("gma_generation_tokens_total")
    assert total("gma_time_to_first_token_seconds_count") == answers
    assert total("gma_session_context_tokens_count") == 2 + 2 * KEPT
    assert total("gma_state_bytes_per_session") == ROW_BYTES
    assert total("gma_sessions") == KEPT
    assert total('gma_session_restore_seconds_count{tier="disk"}') > 0
    assert total("gma_session_parked_bytes") <= total('gma_session_budget_bytes{tier="memory"}')
    assert total("gma_store_errors_total") == 0
    assert total("gma_prefix_hits_total") > 0
    assert total("gma_state_rows") == total("gma_session_capacity")


def test_only_slowness_may_alert_under_this_load(stack: Stack) -> None:
    """A healthy server raises no alert, but for those of a machine that is too busy."""
    raised = {alert["labels"]["alertname"] for alert in stack.api("alerts")["alerts"]}
    assert raised <= {"GmaTimeToFirstTokenSlow", "GmaInterTokenSlow"}


def test_metrics_are_those_of_the_list(stack: Stack) -> None:
    """Names, types, labels and help. A change is made in metrics_golden.txt too, by its script."""
    assert describe(fetch(f"{stack.metrics}/metrics")) == GOLDEN.read_text().splitlines()


def test_promtool_finds_no_fault_with_the_metrics(stack: Stack) -> None:
    """Names and types follow the conventions."""
    text = fetch(f"{stack.metrics}/metrics")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"],
     ["test", "rules", "rules_test.yml"]],
)  # fmt: skip
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    """Syntax, and the cases of each alert."""
    done = subprocess.run(["promtool", *command], cwd=RULES, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """In rules_test.yml, where a case that does not fire expects nothing."""
    alerts = set(re.findall(r"alert: (\w+)", (RULES / "rules.yml").read_text()))
    cases = (RULES / "rules_test.yml").read_text()
    fires = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:", cases))
    quiet = set(re.findall(r"alertname: (\w+)}", cases))
    assert fires == alerts
    assert quiet == alerts


def test_board_is_what_its_script_writes() -> None:
    """And each panel has an id of its own and asks the data source that the reader chose."""
    script = ROOT / "deploy/grafana/make_board.py"
    subprocess.run([sys.executable, script, "--check"], check=True)
    panels = json.loads(BOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in board_panels():
        sources = {panel["datasource"]["uid"], *(t["datasource"]["uid"] for t in panel["targets"])}
        assert sources == {"$datasource"}


def test_server_that_is_gone_is_noticed(stack: Stack) -> None:
    """The last test: it drains the server, and GmaDown starts to count."""
    stack.server.send_signal(signal.SIGTERM)
    assert stack.server.wait(PATIENCE) == 0

    def down() -> bool:
        return any(a["labels"]["alertname"] == "GmaDown" for a in stack.api("alerts")["alerts"])

    wait_for("the alert GmaDown", down)
