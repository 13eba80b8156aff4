"""README.md is true: its programs run, and its table has every call that the server has."""

import re
import subprocess
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
PROTO = Path(__file__).resolve().parents[3] / "proto" / "gma" / "v1"


def programs():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_programs_run(installed_python, client, server_address, tmp_path):
    client.wait_until_serving()
    texts = programs()
    assert len(texts) == 2
    for text in texts:
        assert text.count("127.0.0.1:50051") == 1
        script = tmp_path / "program.py"
        script.write_text(text.replace("127.0.0.1:50051", server_address))
        command = [installed_python, script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_every_call_of_the_server_is_made(installed_python):
    """By the name of its stub, in both clients."""
    import gma_client

    folder = Path(gma_client.__file__).parent
    not_there_yet = {("Scoring", "Score"), ("Inspection", "InspectSession")}
    calls = set()
    for path in PROTO.glob("*.proto"):
        for service in re.finditer(r"^service (\w+) \{(.*?)^\}", path.read_text(), re.M | re.S):
            names = re.findall(r"^  rpc (\w+)\(", service[2], re.M)
            calls |= {(service[1], name) for name in names}
    assert len(calls) > 18
    for sources in (("client.py", "session.py"), ("aio.py", "aio_session.py")):
        text = "".join((folder / source).read_text() for source in sources)
        for service, name in calls - not_there_yet:
            use = rf"({service.lower()}|stub)\.{name}\b"
            assert re.search(use, text), f"{service}.{name} is not in {sources}"


def test_the_table_has_every_public_call(installed_python):
    import gma_client

    shown = set(re.findall(r"`(\w+)`", README.read_text().split("## Calls")[1]))
    for client in (gma_client.Client, gma_client.AsyncClient):
        public = {name for name in vars(client) if not name.startswith("_")} - {"close"}
        assert public <= shown
