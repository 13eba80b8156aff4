"""Both clients on a network that cuts their connections: every answer is the undisturbed one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from conftest import start_server, stop_server
from proxy import CuttingProxy

CUTS = 20  # a test
# A private answer begins anew on each connection, so that one has to carry all of it.
PRIVATE_TOKENS, TURN_TOKENS = 24, 120


@pytest.fixture(scope="module")
def resuming_server(installed_python, tmp_path_factory):
    process, address = start_server(tmp_path_factory.mktemp("resuming"), "--max_sessions", "16")
    yield address
    stop_server(process)


@pytest.fixture
def calm(resuming_server):
    """A client without the proxy, to tell what the answers are."""
    import gma_client

    with gma_client.Client(resuming_server) as client:
        yield client


@pytest.fixture
def proxy(resuming_server):
    proxy = CuttingProxy(resuming_server, CUTS)
    yield proxy
    proxy.close()


def ids_of(answer):
    return [token.id for piece in answer for token in piece.tokens]


def test_what_a_call_that_broke_off_looks_like(installed_python):
    from gma_client._resume import broke_off
    from gma_client.errors import make_error

    code = grpc.StatusCode
    for gone in (code.UNAVAILABLE, code.UNKNOWN):
        assert broke_off(make_error(gone, ""))
    for perhaps in (code.INTERNAL, code.CANCELLED):
        assert broke_off(make_error(perhaps, "Received RST_STREAM with error code 8"))
        assert not broke_off(make_error(perhaps, "of the server's own"))
    assert broke_off(make_error(code.ABORTED, "the session moved to another server"))
    assert not broke_off(make_error(code.ABORTED, "another client resumed this turn"))
    assert not broke_off(make_error(code.NOT_FOUND, ""))


def greedy(tokens):
    return {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True}


def test_private_answers(calm, proxy):
    import gma_client

    with gma_client.Client(proxy.address) as client:
        for i in range(1000):
            prompt = [5 + i % 50, 9]
            answer = client.generate(prompt, max_tokens=PRIVATE_TOKENS, ignore_eos=True)
            ids = ids_of(answer)
            options = {"max_tokens": PRIVATE_TOKENS, "ignore_eos": True, "seed": answer.seed}
            assert ids == ids_of(calm.generate(prompt, **options))
            if proxy.left == 0:
                return


def test_answers_and_appends_on_a_session(calm, proxy):
    import gma_client

    twin = calm.open_session().session_id
    session = calm.open_session().session_id
    with gma_client.Client(proxy.address) as client:
        for i in range(1000):
            prompt = [5 + i % 50, 9, 7]
            info = client.append(session, prompt)
            assert info.context_tokens == calm.append(twin, prompt).context_tokens
            options = greedy(TURN_TOKENS)
            answer = client.generate([11], session_id=session, **options)
            assert ids_of(answer) == ids_of(calm.generate([11], session_id=twin, **options))
            assert answer.last_sequence == client.get_session(session).last_sequence
            if proxy.left == 0:
                break
    assert calm.get_session(session).last_sequence == calm.get_session(twin).last_sequence
    assert calm.close_session(session) == calm.close_session(twin)


def test_a_conversation_on_a_stream(calm, proxy):
    import gma_client

    twin = calm.open_session().session_id
    session = calm.open_session().session_id
    # Nothing says that `opened` comes through the proxy, and nobody knows a session before.
    with (
        gma_client.Client(proxy.address) as client,
        client.session(session, keep=True, credit=16) as stream,
    ):
        for i in range(1000):
            prompt = [5 + i % 50, 9, 7]
            assert stream.append(prompt) == calm.append(twin, prompt).context_tokens
            options = greedy(TURN_TOKENS)
            answer = stream.generate([11], **options)
            assert ids_of(answer) == ids_of(calm.generate([11], session_id=twin, **options))
            if proxy.left == 0:
                break
        assert stream.resumes > 0
    assert calm.close_session(session) == calm.close_session(twin)


def test_input_enters_an_answer_once(calm, proxy):
    import gma_client

    session = calm.open_session().session_id
    fed = 0
    with (
        gma_client.Client(proxy.address) as client,
        client.session(session, keep=True, credit=16) as stream,
    ):
        for i in range(1000):
            answer = stream.generate([5 + i % 50, 9], **greedy(TURN_TOKENS))
            ids, given = [], []
            for piece in answer:
                ids += [token.id for token in piece.tokens]
                if len(ids) > 40 * (len(given) + 1):
                    given.append(stream.interject([6, 7, 8]))
            assert len(ids) == TURN_TOKENS
            fed += 2 + TURN_TOKENS + 3 * len(given)
            assert stream.append([4]) == fed + 1
            fed += 1
            assert all(one.error is None and one.context_tokens <= fed for one in given)
            if proxy.left == 0:
                break
        assert stream.resumes > 0
    assert calm.close_session(session) == fed


def test_inputs_without_an_answer_are_fed_once(calm, proxy):
    import gma_client

    session, another = calm.open_session().session_id, calm.open_session().session_id
    fed = 0
    with (
        gma_client.Client(proxy.address) as client,
        client.session(session, keep=True) as stream,
    ):
        for i in range(1000):
            given = [stream.interject([5 + i % 50, 9]) for _ in range(6)]
            assert stream.append([4]) == fed + 13
            assert [one.context_tokens for one in given] == list(range(fed + 2, fed + 13, 2))
            fed += 13
            assert stream.last_sequence == 7 * (i + 1)
            if proxy.left < CUTS // 2:
                break
        assert stream.resumes > 0

    async def converse():
        async with (
            gma_client.AsyncClient(proxy.address) as client,
            client.session(another, keep=True) as stream,
        ):
            for i in range(1000):
                given = [await stream.interject([5 + i % 50, 9]) for _ in range(6)]
                assert await stream.append([4]) == 13 * (i + 1)
                assert all(one.error is None for one in given)
                assert stream.last_sequence == 7 * (i + 1)
                if proxy.left == 0:
                    return 13 * (i + 1)

    fed_another = asyncio.run(converse())
    assert calm.close_session(another) == fed_another
    assert calm.close_session(session) == fed


def test_calls_say_what_they_follow(calm, resuming_server):
    import gma_client

    session = calm.open_session().session_id
    assert calm.append(session, [3, 4], after=0).last_sequence == 1
    assert calm.append(session, [5], after=1).context_tokens == 3
    for late in (
        lambda: calm.append(session, [5], after=1),
        lambda: calm.rewind_session(session, 1, after=1),
    ):
        with pytest.raises(gma_client.GmaError, match="used in between") as refused:
            late()
        assert refused.value.code is grpc.StatusCode.ABORTED
    for lost in (
        lambda: calm.append(session, [5], after=9),
        lambda: calm.rewind_session(session, 1, after=9),
    ):
        with pytest.raises(gma_client.DataLossError, match="older than what the client"):
            lost()
    assert calm.rewind_session(session, 2, after=2).context_tokens == 2

    async def ask():
        async with gma_client.AsyncClient(resuming_server) as client:
            assert (await client.append(session, [6], after=2)).last_sequence == 3
            assert (await client.rewind_session(session, 1, after=3)).context_tokens == 1

    asyncio.run(ask())
    # A stream knows by itself, also of turns that went on beside it.
    with calm.session(session, keep=True) as stream:
        assert stream.last_sequence == 3
        calm.append(session, [7])
        assert stream.append([8]) == 3
        assert stream.last_sequence == 5
        assert calm.rewind_session(session, 1, after=stream.last_sequence).context_tokens == 1
    calm.close_session(session)


def test_the_asynchronous_client(calm, proxy):
    import gma_client

    twin = calm.open_session().session_id
    session = calm.open_session().session_id

    async def read(answer):
        return [token.id async for piece in answer for token in piece.tokens]

    async def converse():
        async with gma_client.AsyncClient(proxy.address) as client:
            async with client.session(session, keep=True, credit=16) as stream:
                for i in range(1000):
                    prompt = [5 + i % 50, 9, 7]
                    options = greedy(TURN_TOKENS)
                    assert await stream.append(prompt) == calm.append(twin, prompt).context_tokens
                    answer = await stream.generate([11], **options)
                    expected = ids_of(calm.generate([11], session_id=twin, **options))
                    assert await read(answer) == expected
                    if proxy.left < CUTS // 2:
                        break
                assert stream.resumes > 0
            for _ in range(1000):
                options = greedy(TURN_TOKENS)
                answer = client.generate([12], session_id=session, **options)
                expected = ids_of(calm.generate([12], session_id=twin, **options))
                assert await read(answer) == expected
                options = greedy(PRIVATE_TOKENS)
                private = client.generate([3, 4], **options)
                assert await read(private) == ids_of(calm.generate([3, 4], **options))
                if proxy.left == 0:
                    return

    asyncio.run(converse())
    assert calm.close_session(session) == calm.close_session(twin)


def test_another_client_resumes(calm):
    import gma_client

    session = calm.open_session().session_id
    options = greedy(5000)
    first = calm.generate([8, 9], session_id=session, **options)
    ids = []
    while len(ids) < 20:
        ids += [token.id for token in next(first).tokens]
    rest = calm.resume_session(session, first.last_sequence)
    ids += ids_of(rest)
    assert ids == ids_of(calm.generate([8, 9], **options))
    with pytest.raises(gma_client.GmaError, match="another client resumed this turn"):
        first.read()
    assert rest.last_sequence == 5002
    assert ids_of(calm.resume_session(session, 5002)) == []
    with pytest.raises(gma_client.OutOfRangeError, match="from the future"):
        calm.resume_session(session, 6000).read()
    calm.close_session(session)


def test_without_resuming_the_break_is_the_error(calm, proxy):
    import gma_client

    with gma_client.Client(proxy.address, resume_for=0) as client:
        broken = 0
        for _ in range(20):
            try:
                client.generate([3, 4], **greedy(400)).read()
            except gma_client.GmaError as error:
                assert error.code.name in ("UNAVAILABLE", "UNKNOWN")
                broken += 1
        assert broken > 0


def test_a_refusal_is_not_asked_for_again(calm):
    import gma_client

    with pytest.raises(gma_client.NotFoundError):
        calm.generate([3], session_id="0" * 32).read()
    with pytest.raises(gma_client.NotFoundError):
        calm.append("0" * 32, [3])


def test_the_next_server(calm, resuming_server):
    import gma_client

    with gma_client.Client("127.0.0.1:1," + resuming_server) as client:
        options = greedy(10)
        assert ids_of(client.generate([3, 4], **options)) == ids_of(
            calm.generate([3, 4], **options)
        )


def test_pins_and_checkpoints(calm):
    import gma_client

    session = calm.open_session().session_id
    calm.append(session, [3, 4, 5])
    pinned = calm.open_session(pinned=True)
    assert pinned.pinned
    calm.close_session(pinned.session_id)
    assert calm.pin_session(session).pinned
    assert not calm.pin_session(session, False).pinned
    calm.checkpoint_session(session, "here")
    calm.delete_checkpoint(session, "here")
    with pytest.raises(gma_client.NotFoundError):
        calm.rewind_session(session, "here")
    info = calm.get_session(session)
    assert (info.tier, info.last_sequence) == ("pool", 1)
    calm.close_session(session)


def test_a_proxy_is_told_the_session(installed_python):
    """A gRPC server that only looks at what comes beside the messages."""
    import gma_client

    told = []

    class Listener(grpc.GenericRpcHandler):
        def service(self, details):
            told.append(dict(details.invocation_metadata).get("gma-session"))
            return None  # UNIMPLEMENTED

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Listener()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    session = "0123456789abcdef" * 2
    with gma_client.Client(f"127.0.0.1:{port}") as client:
        for call in (
            lambda: client.get_session(session),
            lambda: client.append(session, "x"),
            lambda: client.generate("x", session_id=session).read(),
            lambda: client.resume_session(session, 0).read(),
            lambda: client.export_session(session),
            lambda: client.session(session),
            lambda: client.generate("x").read(),
            lambda: client.close_session("no id: \n"),
        ):
            with pytest.raises(gma_client.GmaError):
                call()

    async def ask():
        async with gma_client.AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(gma_client.GmaError):
                await client.get_session(session)
            with pytest.raises(gma_client.GmaError):
                await client.generate("x", session_id=session).read()
            with pytest.raises(gma_client.GmaError):
                async with client.session(session):
                    pass

    asyncio.run(ask())
    server.stop(0)
    assert told == [session] * 6 + [None, None] + [session] * 3


def test_exports_go_to_the_next_server(installed_python):
    import gma_client

    server = grpc.server(ThreadPoolExecutor(1))  # knows no call: UNIMPLEMENTED
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    addresses = f"127.0.0.1:1,127.0.0.1:{port}"
    with gma_client.Client(addresses) as client, pytest.raises(gma_client.GmaError) as refused:
        client.export_session("0123456789abcdef" * 2)
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED

    async def ask():
        async with gma_client.AsyncClient(addresses) as client:
            await client.export_session("0123456789abcdef" * 2)

    with pytest.raises(gma_client.GmaError) as refused:
        asyncio.run(ask())
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
    server.stop(0)
