"""Fork, checkpoint and rewind against the real server with the tiny model."""

import asyncio
import time

import pytest
from conftest import start_server, stop_server

GREEDY = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}


def say(client, session_id, text, **options):
    """The token ids of an answer on a session."""
    answer = client.generate(text, session_id=session_id, **{**GREEDY, **options})
    return [token.id for piece in answer for token in piece.tokens]


@pytest.fixture
def session_id(client):
    session = client.open_session()
    yield session.session_id
    for info in list(client.list_sessions()):
        client.close_session(info.session_id)


def test_a_fork_goes_its_own_way(client, session_id):
    say(client, session_id, "Once upon a time")
    fork = client.fork_session(session_id)
    assert fork.session_id != session_id
    assert fork.context_tokens == client.get_session(session_id).context_tokens
    one = say(client, session_id, " there was")
    assert say(client, fork.session_id, " there was") == one
    assert say(client, fork.session_id, " a ship") != say(client, session_id, " a king")


def test_a_rewound_session_is_one_that_read_no_more(client, session_id):
    prompt = client.tokenize("The sea was calm and the night was long. " * 6)
    client.append(session_id, prompt)
    say(client, session_id, " Then")
    for position in (len(prompt), 30, 7, 1):
        info = client.rewind_session(session_id, position)
        assert info.context_tokens == position
        assert info.state == "idle"
        rewound = say(client, session_id, " And then", temperature=1.0, seed=5, top_logprobs=0)
        fresh = client.open_session().session_id
        client.append(fresh, prompt[:position])
        expected = say(client, fresh, " And then", temperature=1.0, seed=5, top_logprobs=0)
        client.close_session(fresh)
        assert rewound == expected, position
    assert client.rewind_session(session_id, 0).context_tokens == 0


def test_checkpoints_have_names_and_numbers(client, session_id):
    import gma_client

    say(client, session_id, "Once upon a time")
    kept = client.checkpoint_session(session_id, "opening")
    assert kept.name == "opening"
    assert not kept.automatic
    assert client.checkpoint_session(session_id).name == "1"
    first = say(client, session_id, " there was")
    client.rewind_session(session_id, 3)
    say(client, session_id, " another way")
    assert client.rewind_session(session_id, "opening").context_tokens == kept.context_tokens
    assert say(client, session_id, " there was") == first
    listed = client.list_checkpoints(session_id)
    assert {"opening", "1"} <= {info.name for info in listed}
    assert any(info.automatic for info in listed)
    info = client.get_session(session_id)
    assert info.checkpoints == len(listed)
    assert info.checkpoint_bytes == len(listed) * info.state_bytes
    with pytest.raises(gma_client.NotFoundError, match="never"):
        client.rewind_session(session_id, "never")
    with pytest.raises(gma_client.InvalidArgumentError, match=r"checkpoint\.name is 65 bytes"):
        client.checkpoint_session(session_id, "x" * 65)
    with pytest.raises(gma_client.OutOfRangeError, match="holds"):
        client.rewind_session(session_id, info.context_tokens + 1)
    with pytest.raises(gma_client.InvalidArgumentError, match=r"rewind\.context_tokens is -1"):
        client.rewind_session(session_id, -1)


def test_beyond_the_ring_the_oldest_position_is_named(installed_python, tmp_path):
    import gma_client

    flags = ["--rewind_tokens", "50", "--checkpoint_tokens", "20"]
    process, address = start_server(tmp_path, *flags)
    with gma_client.Client(address) as client:
        session = client.open_session().session_id
        prompt = client.tokenize("The sea was calm and the night was long. " * 20)[:150]
        client.append(session, prompt)
        oldest = client.get_session(session).oldest_rewind_tokens
        assert 100 <= oldest < 150
        with pytest.raises(gma_client.OutOfRangeError, match=f"reached is {oldest},"):
            client.rewind_session(session, oldest - 30)
        client.rewind_session(session, oldest)
        fresh = client.open_session().session_id
        client.append(fresh, prompt[:oldest])
        assert say(client, session, " And") == say(client, fresh, " And")
    stop_server(process)


def test_an_active_turn_refuses_and_forks_beyond_the_rows_are_parked(client, session_id):
    import gma_client

    answer = client.generate("x", session_id=session_id, max_tokens=4000, ignore_eos=True)
    next(answer)
    for call in (client.fork_session, client.checkpoint_session):
        with pytest.raises(gma_client.FailedPreconditionError, match="active turn"):
            call(session_id)
    with pytest.raises(gma_client.FailedPreconditionError, match="active turn"):
        client.rewind_session(session_id, 0)
    answer.cancel()
    with pytest.raises(gma_client.CancelledError):
        answer.read()
    end = time.monotonic() + 10
    while client.get_session(session_id).state != "idle" and time.monotonic() < end:
        time.sleep(0.02)  # the server hears of the cancelled call a little later
    before = client.get_session(session_id).context_tokens
    forks = [client.fork_session(session_id) for _ in range(12)]  # over 8 rows
    assert {fork.context_tokens for fork in forks} == {before}
    for fork in forks:  # the first of them are parked by now
        assert client.append(fork.session_id, " and").context_tokens > before
        client.close_session(fork.session_id)


def test_without_blocking(installed_python, server_address):
    import gma_client

    async def run():
        async with gma_client.AsyncClient(server_address) as client:
            session = (await client.open_session()).session_id
            await client.append(session, "Once upon a time")
            kept = await client.checkpoint_session(session, "a")
            fork = await client.fork_session(session)
            await client.append(session, " there was")
            assert [info.name for info in await client.list_checkpoints(session)].count("a") == 1
            back = await client.rewind_session(session, "a")
            assert back.context_tokens == kept.context_tokens == fork.context_tokens
            assert (await client.rewind_session(session, 2)).context_tokens == 2
            for name in (session, fork.session_id):
                await client.close_session(name)

    asyncio.run(run())


def test_an_exported_session_goes_on_after_a_restart(installed_python, tmp_path):
    import gma_client

    key = tmp_path / "state.key"
    process, address = start_server(tmp_path, "--state_key", str(key))
    with gma_client.Client(address) as client:
        session = client.open_session(ttl_seconds=77).session_id
        say(client, session, "Once upon a time")
        blob = client.export_session(session)
        assert 0 < len(blob) - client.get_session(session).state_bytes < 400
        expected = say(client, session, " there was", temperature=1.0, seed=3)
    stop_server(process)
    assert key.stat().st_mode & 0o777 == 0o600
    (tmp_path / "ports.json").unlink(missing_ok=True)

    process, address = start_server(tmp_path, "--state_key", str(key))
    with gma_client.Client(address) as client:
        info = client.import_session(blob)
        assert info.ttl_seconds == 77
        assert say(client, info.session_id, " there was", temperature=1.0, seed=3) == expected
        # Nothing was left half done by what is refused.
        rows = client.model().sessions_in_use
        for broken in (blob[:-1], blob[:100], b"", blob + b"x", blob[:500] + b"x" + blob[501:]):
            with pytest.raises(gma_client.InvalidArgumentError, match="exported session"):
                client.import_session(broken)
        assert client.model().sessions_in_use == rows
    stop_server(process)
    (tmp_path / "ports.json").unlink(missing_ok=True)

    process, address = start_server(tmp_path)
    with (
        gma_client.Client(address) as client,
        pytest.raises(gma_client.InvalidArgumentError, match="no --state_key"),
    ):
        client.import_session(blob)
    stop_server(process)
    (tmp_path / "ports.json").unlink(missing_ok=True)

    process, address = start_server(tmp_path, "--state_key", str(key), "--compensated_state")
    with (
        gma_client.Client(address) as client,
        pytest.raises(gma_client.FailedPreconditionError, match="state layout"),
    ):
        client.import_session(blob)
    stop_server(process)


def test_export_and_import_without_blocking(installed_python, server_address):
    import gma_client

    async def run():
        async with gma_client.AsyncClient(server_address) as client:
            session = (await client.open_session()).session_id
            await client.append(session, "Once upon a time")
            blob = await client.export_session(session)
            tokens = await client.close_session(session)
            copy = await client.import_session(blob)
            assert copy.context_tokens == tokens
            assert copy.session_id != session
            await client.close_session(copy.session_id)
            with pytest.raises(gma_client.NotFoundError):
                await client.export_session(session)

    asyncio.run(run())
