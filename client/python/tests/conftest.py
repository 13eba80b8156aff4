"""The package, installed into a fresh virtual environment, and a server with the tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("GMA_BUILD_DIR", ROOT / "build" / "release"))
MODEL = ROOT / "deploy" / "models" / "tiny" / "converted"


def install(folder: Path) -> Path:
    """Builds and installs the package into a fresh environment; returns its python.

    Its dependencies come from the environment that runs the tests, so nothing is downloaded.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_paths(vars={"base": str(folder)})["purelib"])
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    # A copy: two test runs at once would build in one folder.
    source = folder / "source" / "client" / "python"
    ignored = shutil.ignore_patterns("build", "*.egg-info", "_proto", "__pycache__", "tests")
    shutil.copytree(ROOT / "client" / "python", source, ignore=ignored)
    shutil.copytree(ROOT / "proto", folder / "source" / "proto")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += ["--no-index", "--no-deps", "--no-build-isolation", "--force-reinstall", str(source)]
    subprocess.run(command, check=True, timeout=300)
    return python


@pytest.fixture(scope="session")
def installed_python(tmp_path_factory):
    python = install(tmp_path_factory.mktemp("environment"))
    command = [python, "-c", "import gma_client, sys; print(gma_client.__file__)"]
    # Elsewhere than in the source folder, which has no stubs.
    shown = subprocess.check_output(command, text=True, cwd=python.parent)
    packages = Path(shown.strip()).parent.parent
    assert packages.is_relative_to(python.parent.parent), "the installed package is not the one"
    sys.path.insert(0, str(packages))
    yield python
    sys.path.remove(str(packages))


def start_server(folder, *flags, model=MODEL):
    """Starts the real server on free ports; returns the process and its address."""
    binary = BUILD / "bin" / "gma-server"
    if not binary.exists():
        pytest.fail(f"{binary} is not built")
    ports, log = folder / "ports.json", folder / "log"
    command = [binary, "--model", model, "--listen", "127.0.0.1:0", "--port_file", ports]
    command += ["--metrics_listen", "127.0.0.1:0", *flags]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
    end = time.monotonic() + 60
    while not ports.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"the server did not start: {log.read_text()}")
        time.sleep(0.05)
    return process, f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"


def stop_server(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def server_address(tmp_path_factory):
    process, address = start_server(
        tmp_path_factory.mktemp("server"), "--max_sessions", "8", "--resume_window", "0s"
    )
    yield address
    stop_server(process)


@pytest.fixture
def client(installed_python, server_address):
    import gma_client

    with gma_client.Client(server_address) as client:
        yield client
        # Whatever a test does, its rows come back.
        end = time.monotonic() + 5
        while client.model().sessions_in_use > 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert client.model().sessions_in_use == 0
