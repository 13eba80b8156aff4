"""Both clients, and a real server that is killed and started again on the same sessions."""

import asyncio
import random
import shutil
import signal
import threading
import time

import grpc
import pytest
from conftest import MODEL, start_server, stop_server
from proxy import CuttingProxy

KILLS = 2  # a test
TOKENS = 150
# More than the network and the server hold of an answer that nobody reads.
MANY_TOKENS = 6000


class MortalServer:
    """A server with a store, behind one address that stays."""

    def __init__(self, folder):
        self.folder = folder
        self.starts = 0
        self.model = MODEL
        self._start()
        self._proxy = CuttingProxy(self._address, cuts=0)
        self.address = self._proxy.address
        self._restarting = None

    def _start(self):
        self.starts += 1
        folder = self.folder / str(self.starts)
        folder.mkdir()
        state = self.folder / "state"
        self._process, self._address = start_server(
            folder, "--state_dir", state, "--max_sessions", "8", model=self.model
        )

    def kill(self):
        self.wait()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def kill_and_start(self):
        """Comes back meanwhile; `wait` waits for that."""
        self.kill()
        self._restarting = threading.Thread(target=self._come_back)
        self._restarting.start()

    def _come_back(self):
        self._start()
        self._proxy.target = self._address

    def wait(self):
        if self._restarting is not None:
            self._restarting.join()

    def stop(self):
        self.wait()
        if self._process.poll() is None:
            stop_server(self._process)
        self._proxy.close()


@pytest.fixture
def mortal(installed_python, tmp_path):
    server = MortalServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def calm(client):
    return client


def options(tokens=TOKENS):
    return {"temperature": 0.8, "seed": 7, "max_tokens": tokens, "ignore_eos": True}


def kill_points(tokens):
    """Where in the answers of a test the server is killed: (turn, tokens read)."""
    return [(turn, random.randrange(1, tokens)) for turn in range(KILLS)]


def read(answer, mortal, kill_at):
    """The answer's tokens; the server dies after some of them."""
    ids = []
    for piece in answer:
        ids += [token.id for token in piece.tokens]
        if kill_at is not None and len(ids) >= kill_at:
            mortal.kill_and_start()
            kill_at = None
    return ids


async def read_async(answer, mortal, kill_at):
    ids = []
    async for piece in answer:
        ids += [token.id for token in piece.tokens]
        if kill_at is not None and len(ids) >= kill_at:
            mortal.kill_and_start()
            kill_at = None
    return ids


def ids_of(answer):
    return [token.id for piece in answer for token in piece.tokens]


def test_turns_on_a_session(calm, mortal):
    import gma_client

    twin = calm.open_session().session_id
    with gma_client.Client(mortal.address) as client:
        session = client.open_session().session_id
        for turn, kill_at in kill_points(TOKENS):
            many = options(MANY_TOKENS)
            answer = client.generate([5 + turn, 9], session_id=session, **many)
            ids = read(answer, mortal, kill_at)
            assert ids == ids_of(calm.generate([5 + turn, 9], session_id=twin, **many))
            assert answer.resumes > 0
            info = client.append(session, [11, 12])
            assert info.context_tokens == calm.append(twin, [11, 12]).context_tokens
            assert info.last_sequence == calm.get_session(twin).last_sequence
    assert mortal.starts == 1 + KILLS
    calm.close_session(twin)


def test_an_append_that_is_sent_to_a_dead_server(calm, mortal):
    import gma_client

    twin = calm.open_session().session_id
    with gma_client.Client(mortal.address) as client:
        session = client.open_session().session_id
        client.append(session, [3, 4])
        mortal.kill_and_start()
        info = client.append(session, [5, 6])
        assert info.context_tokens == 4
        assert info.last_sequence == 2
        calm.append(twin, [3, 4, 5, 6])
        assert ids_of(client.generate([7], session_id=session, **options())) == ids_of(
            calm.generate([7], session_id=twin, **options())
        )
    calm.close_session(twin)


def test_private_answers(calm, mortal):
    import gma_client

    with gma_client.Client(mortal.address) as client:
        for turn, kill_at in kill_points(TOKENS):
            many = options(MANY_TOKENS)
            drawn = {**many, "seed": 100 + turn} if turn else {"max_tokens": MANY_TOKENS}
            answer = client.generate([5 + turn, 9], **{**drawn, "ignore_eos": True})
            ids = read(answer, mortal, kill_at)
            assert answer.resumes > 0
            again = {**drawn, "seed": answer.seed, "ignore_eos": True}
            assert ids == ids_of(calm.generate([5 + turn, 9], **again))


def test_a_conversation_on_a_stream(calm, mortal):
    import gma_client

    twin = calm.open_session().session_id
    with (
        gma_client.Client(mortal.address) as client,
        client.session(keep=True, credit=32) as stream,
    ):
        for turn, kill_at in kill_points(TOKENS):
            ids = read(stream.generate([5 + turn, 9], **options()), mortal, kill_at)
            assert ids == ids_of(calm.generate([5 + turn, 9], session_id=twin, **options()))
            assert stream.append([11, 12]) == calm.append(twin, [11, 12]).context_tokens
        assert stream.resumes >= KILLS
        mortal.kill_and_start()  # between two turns
        assert ids_of(stream.generate([13], **options())) == ids_of(
            calm.generate([13], session_id=twin, **options())
        )
    calm.close_session(twin)


def test_the_asynchronous_client(calm, mortal):
    import gma_client

    twin = calm.open_session().session_id

    async def converse():
        async with (
            gma_client.AsyncClient(mortal.address) as client,
            client.session(keep=True, credit=32) as stream,
        ):
            turns = kill_points(TOKENS)
            for turn, kill_at in turns[:1]:
                answer = await stream.generate([5 + turn, 9], **options())
                ids = await read_async(answer, mortal, kill_at)
                assert ids == ids_of(calm.generate([5 + turn, 9], session_id=twin, **options()))
            assert await stream.append([11]) == calm.append(twin, [11]).context_tokens
            await stream.end()
            for turn, kill_at in turns[1:]:
                session = stream.session_id
                many = options(MANY_TOKENS)
                answer = client.generate([5 + turn, 9], session_id=session, **many)
                ids = await read_async(answer, mortal, kill_at)
                assert ids == ids_of(calm.generate([5 + turn, 9], session_id=twin, **many))
                assert answer.resumes > 0
            mortal.kill_and_start()
            info = await client.append(stream.session_id, [11, 12])
            assert info.context_tokens == calm.append(twin, [11, 12]).context_tokens
            private = client.generate([3, 4], **options(MANY_TOKENS))
            ids = await read_async(private, mortal, 40)
            assert private.resumes > 0
            assert ids == ids_of(calm.generate([3, 4], **options(MANY_TOKENS)))

    asyncio.run(converse())
    calm.close_session(twin)


def test_the_error_stays_what_it_was_when_the_time_is_over(mortal):
    import gma_client

    with gma_client.Client(mortal.address, resume_for=1.5) as client:
        answer = client.generate([5, 9], **options(MANY_TOKENS))
        next(answer)
        mortal.kill()
        begin = time.monotonic()
        with pytest.raises(gma_client.UnavailableError) as caught:
            answer.read()
        assert 0.5 < time.monotonic() - begin < 30
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert caught.value.message
        with pytest.raises(gma_client.GmaError):
            client.append("0" * 32, [3])
        mortal._start()  # for the fixture


def test_a_private_answer_does_not_go_on_with_another_model(mortal, tmp_path):
    import gma_client

    with gma_client.Client(mortal.address) as client:
        answer = client.generate([5, 9], **options(MANY_TOKENS))
        next(answer)
        other = tmp_path / "other"
        shutil.copytree(MODEL, other)
        (weights,) = other.glob("*.safetensors")
        data = bytearray(weights.read_bytes())
        data[-4] ^= 1  # the smallest bit of a weight
        weights.write_bytes(data)
        mortal.model = other
        mortal.kill_and_start()
        with pytest.raises(gma_client.DataLossError, match="another model"):
            answer.read()
