"""The asynchronous client against the real server."""

import asyncio

import pytest

LONG = {"max_tokens": 1_000_000, "ignore_eos": True}


def run(address, body):
    """Runs body(client) in an event loop of its own."""
    import gma_client

    async def main():
        async with gma_client.AsyncClient(address) as client:
            return await asyncio.wait_for(body(client), timeout=60)

    return asyncio.run(main())


def test_streams_as_the_synchronous_client_does(client, server_address):
    async def body(aio):
        answer = aio.generate("Once", max_tokens=24, ignore_eos=True, seed=7)
        count = 0
        async for piece in answer:
            count += len(piece.tokens)
        assert count == 24
        assert answer.finish.reason == "length"
        return answer.text

    text = run(server_address, body)
    assert text == client.generate("Once", max_tokens=24, ignore_eos=True, seed=7).read()


def test_many_answers_at_once(client, server_address):
    async def body(aio):
        draws = [
            aio.chat("Hi", max_tokens=12, ignore_eos=True, seed=seed).read() for seed in range(8)
        ]
        return await asyncio.gather(*draws)

    texts = run(server_address, body)
    assert texts[3] == client.chat("Hi", max_tokens=12, ignore_eos=True, seed=3).read()


def test_sessions(client, server_address):
    async def body(aio):
        async with aio.session() as session:
            assert await session.append("hello") > 0
            answer = await session.chat("Hi", **LONG)
            await anext(answer)
            await answer.cancel()
            await answer.read()
            assert answer.finish.reason == "cancelled"
            left = await session.generate("x", **LONG)
            await anext(left)
            again = await session.generate("y", max_tokens=300, ignore_eos=True)
            await again.read()
            assert again.finish.usage.completion_tokens == 300
            info = await aio.get_session(session.session_id)
            assert info.context_tokens > 300
            assert [s.session_id async for s in aio.list_sessions()] == [session.session_id]

    run(server_address, body)


def test_errors_and_cancellation(client, server_address):
    import gma_client

    async def body(aio):
        with pytest.raises(gma_client.InvalidArgumentError, match="top_p"):
            await aio.generate("x", top_p=7.0).read()
        answer = aio.generate("x", **LONG)
        await anext(answer)
        await answer.cancel()
        with pytest.raises(gma_client.CancelledError):
            await answer.read()
        with pytest.raises(gma_client.NotFoundError):
            async with aio.session("0" * 32):
                pass
        # Cancelling the task, as asyncio does, is not swallowed.
        reader = asyncio.create_task(aio.generate("x", **LONG).read())
        await asyncio.sleep(0.2)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    run(server_address, body)


def test_unary_calls(client, server_address):
    async def body(aio):
        assert await aio.detokenize(await aio.tokenize("naïve 🙂")) == "naïve 🙂".encode()
        (model,) = await aio.models()
        assert model.name == (await aio.wait_until_serving()).name
        opened = await aio.open_session()
        assert (await aio.append(opened.session_id, "hello")).context_tokens > 0
        assert await aio.close_session(opened.session_id) > 0

    run(server_address, body)
