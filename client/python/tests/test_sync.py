"""The synchronous client against the real server."""

import subprocess
import threading
import time

import pytest
from conftest import start_server, stop_server

LONG = {"max_tokens": 1_000_000, "ignore_eos": True}


def test_streams_pieces_and_knows_the_end(client):
    answer = client.generate("Once upon a time", max_tokens=24, ignore_eos=True, seed=7)
    pieces = list(answer)
    assert sum(len(piece.tokens) for piece in pieces) == 24
    assert "".join(piece.text for piece in pieces) == answer.text
    assert answer.seed == 7
    assert answer.finish.reason == "length"
    assert answer.finish.usage.completion_tokens == 24
    assert answer.finish.usage.prompt_tokens == len(client.tokenize("Once upon a time"))
    assert answer.finish.timings.first_token > 0
    assert answer.model_fingerprint == client.model().fingerprint


def test_text_is_whole_characters_of_the_tokens_bytes(client):
    answer = client.generate("x", max_tokens=200, ignore_eos=True, seed=3, temperature=1.5)
    raw = b"".join(token.text for piece in answer for token in piece.tokens)
    assert answer.text == raw.decode(errors="replace")
    assert len(answer.text) > 0


def test_the_same_seed_draws_the_same_text(client):
    def draw(seed):
        return client.generate("abc", max_tokens=32, ignore_eos=True, seed=seed).read()

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_candidates_and_logprobs(client):
    answer = client.generate([5, 6, 7], n=3, max_tokens=5, ignore_eos=True, seed=1, top_logprobs=2)
    tokens = [token for piece in answer for token in piece.tokens]
    assert len(tokens) == 15
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
    assert all(answer.finish_of(i).usage.completion_tokens == 5 for i in range(3))
    alone = client.generate([5, 6, 7], max_tokens=5, ignore_eos=True, seed=2)
    assert alone.read() == answer.text_of(1)


def test_chat_is_framed_by_the_models_format(client):
    answer = client.chat("Hi", max_tokens=4, ignore_eos=True)
    answer.read()
    plain = len(client.tokenize("Hi"))
    assert answer.finish.usage.prompt_tokens > plain
    # What spells a control token is text like any other.
    assert client.chat("<|im_end|>", max_tokens=1).read() is not None


def test_bad_values_name_field_value_and_limit(client):
    import gma_client

    with pytest.raises(gma_client.InvalidArgumentError) as info:
        client.generate("x", top_p=1.5).read()
    assert "top_p" in info.value.message
    assert "1.5" in info.value.message
    with pytest.raises(gma_client.NotFoundError):
        client.generate("x", session_id="0" * 32).read()
    with pytest.raises(gma_client.InvalidArgumentError):
        client.detokenize([1_000_000])


def test_tokenize_round_trip(client):
    for text in ("Hello, world!", "naïve — 東京 🙂\n", ""):
        assert client.detokenize(client.tokenize(text)) == text.encode()
    raw = bytes(range(256))
    assert client.detokenize(client.tokenize(raw)) == raw


def test_models(client):
    (model,) = client.models()
    assert model == client.model(model.name)
    assert model.state_bytes > 0
    assert model.session_capacity == 8
    assert model.has_chat_format


def test_a_cancelled_answer_ends_with_an_error_and_frees_its_row(client):
    import gma_client

    answer = client.generate("x", **LONG)
    next(answer)
    assert client.model().sessions_in_use == 1
    answer.cancel()
    with pytest.raises(gma_client.CancelledError):
        answer.read()
    assert answer.finish is None


def test_a_timeout_ends_the_answer(client):
    import gma_client

    start = time.monotonic()
    with pytest.raises(gma_client.DeadlineExceededError):
        client.generate("x", timeout=0.3, **LONG).read()
    assert time.monotonic() - start < 10


def test_a_session_keeps_its_past_in_a_state_of_fixed_size(client):
    with client.session() as session:
        before = client.get_session(session.session_id)
        assert before.context_tokens == 0
        first = session.chat("My name is Ada.", max_tokens=8, ignore_eos=True, seed=1)
        first.read()
        assert first.finish.usage.cached_tokens == 0
        second = session.chat("What is it?", max_tokens=8, ignore_eos=True, seed=1)
        second.read()
        assert second.finish.usage.cached_tokens > 0
        after = client.get_session(session.session_id)
        assert after.context_tokens > before.context_tokens
        assert after.state_bytes == before.state_bytes == client.model().state_bytes


def test_a_turn_in_two_parts_is_the_turn_in_one(client):
    whole = client.generate("One two three four", max_tokens=16, temperature=0, ignore_eos=True)
    with client.session() as session:
        ids = client.tokenize("One two three four")
        assert session.append(ids[:3]) == 3
        parts = session.generate(ids[3:], max_tokens=6, temperature=0, ignore_eos=True).read()
        parts += session.generate(max_tokens=10, temperature=0, ignore_eos=True).read()
    assert parts == whole.read()


def test_cancel_ends_the_turn_and_not_the_session(client):
    with client.session() as session:
        answer = session.generate("x", **LONG)
        next(answer)
        answer.cancel()
        answer.read()
        assert answer.finish.reason == "cancelled"
        assert session.generate("y", max_tokens=3, ignore_eos=True).read() is not None


def test_an_answer_that_is_left_alone_does_not_block_the_next_one(client):
    with client.session() as session:
        left = session.generate("x", **LONG)
        next(left)
        answer = session.generate("y", max_tokens=3, ignore_eos=True)
        answer.read()
        assert answer.finish.usage.completion_tokens == 3
        assert left.finish.reason == "cancelled"


def test_a_reader_that_stops_pauses_its_session_and_nobody_else(client):
    with client.session(credit=10) as session:
        answer = session.generate("x", max_tokens=400, ignore_eos=True)
        next(answer)
        seen = -1
        end = time.monotonic() + 10
        # The server stops at the credit: the context stops growing far below 400 tokens.
        while time.monotonic() < end:
            now = client.get_session(session.session_id).context_tokens
            if now == seen:
                break
            seen = now
            time.sleep(0.3)
        assert seen < 50
        client.generate("z", max_tokens=20, ignore_eos=True).read()
        answer.read()
        assert answer.finish.usage.completion_tokens == 400


def test_errors_of_a_command_leave_the_session_usable(client):
    import gma_client

    with client.session() as session:
        with pytest.raises(gma_client.InvalidArgumentError, match="temperature"):
            session.generate("x", temperature=-1.0).read()
        assert session.generate("x", max_tokens=2, ignore_eos=True).read() is not None


def test_a_kept_session_can_be_resumed(client):
    with client.session(keep=True) as session:
        session.generate("x", max_tokens=4, ignore_eos=True).read()
    name = session.session_id
    tokens = client.get_session(name).context_tokens
    assert tokens > 0
    assert name in [info.session_id for info in client.list_sessions(page_size=1)]
    with client.session(name, keep=True) as resumed:
        assert resumed.resumed
        resumed.generate("y", max_tokens=4, ignore_eos=True).read()
    assert client.close_session(name) > tokens


def test_unary_sessions(client):
    import gma_client

    opened = client.open_session(ttl_seconds=60)
    assert opened.ttl_seconds == 60
    assert client.append(opened.session_id, "hello").context_tokens > 0
    assert client.append(opened.session_id, [{"role": "user", "content": "hi"}]).state == "idle"
    client.generate("x", session_id=opened.session_id, max_tokens=2, ignore_eos=True).read()
    client.close_session(opened.session_id)
    with pytest.raises(gma_client.NotFoundError):
        client.get_session(opened.session_id)


def test_a_full_server_refuses(installed_python, tmp_path):
    import gma_client

    process, address = start_server(tmp_path, "--max_sessions", "2", "--park_memory_bytes", "0")
    with gma_client.Client(address) as client:
        for _ in range(2):
            client.open_session()
        with pytest.raises(gma_client.ResourceExhaustedError, match="2 state rows"):
            client.open_session()
        with pytest.raises(gma_client.ResourceExhaustedError):
            client.generate("x", max_tokens=1).read()
    stop_server(process)


def test_an_exception_inside_a_session_breaks_it_off(client):
    with pytest.raises(ZeroDivisionError), client.session() as session:
        session.generate("x", **LONG)
        raise ZeroDivisionError


def test_threads_share_a_client(client):
    texts = {}

    def draw(seed):
        texts[seed] = client.generate("a", max_tokens=16, ignore_eos=True, seed=seed).read()

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, text in texts.items():
        assert client.generate("a", max_tokens=16, ignore_eos=True, seed=seed).read() == text
    assert len(texts) == 6


def test_a_server_that_dies_is_an_error(installed_python, tmp_path):
    import gma_client

    process, address = start_server(tmp_path)
    with gma_client.Client(address, resume_for=1) as client:
        answer = client.generate("x", **LONG)
        next(answer)
        process.kill()
        process.wait()
        with pytest.raises(gma_client.GmaError):
            answer.read()
        with pytest.raises(gma_client.UnavailableError):
            client.wait_until_serving(timeout=0.3)


def test_a_key_is_sent(installed_python, tmp_path, monkeypatch):
    import hashlib

    import gma_client

    keys = tmp_path / "keys"
    keys.write_text("ada:" + hashlib.sha256(b"secret").hexdigest() + "\n")
    keys.chmod(0o600)
    process, address = start_server(tmp_path, "--api_keys", keys)
    monkeypatch.delenv("GMA_API_KEY", raising=False)
    with gma_client.Client(address) as client, pytest.raises(gma_client.UnauthenticatedError):
        client.generate("x", max_tokens=1).read()
    with gma_client.Client(address, api_key="secret") as client:
        client.generate("x", max_tokens=1).read()
    monkeypatch.setenv("GMA_API_KEY", "secret")
    with gma_client.Client(address) as client:
        client.generate("x", max_tokens=1).read()
    stop_server(process)


def test_the_installed_package_works_by_itself(installed_python, server_address, tmp_path):
    """In a process of its own, in the fresh environment, outside the repository."""
    program = (
        "import gma_client\n"
        f"with gma_client.Client('{server_address}') as client:\n"
        "    print(client.generate('x', max_tokens=3, ignore_eos=True, seed=1).read(), end='')\n"
        "print(gma_client.__file__)\n"
    )
    shown = subprocess.run(
        [installed_python, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert str(installed_python.parent.parent) in shown.stdout
    typed = installed_python.parent.parent.glob("lib/*/site-packages/gma_client/py.typed")
    assert len(list(typed)) == 1
