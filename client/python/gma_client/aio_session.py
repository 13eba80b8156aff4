"""Answers and sessions of the asynchronous client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from gma_client import _convert
from gma_client._answer import AnswerState, AnswerView, SequenceCheck
from gma_client._convert import Chat, Prompt
from gma_client._proto import common_pb2, generation_pb2
from gma_client.errors import error_of_call, error_of_number, make_error
from gma_client.types import Options, Piece

_CREDIT = 256  # tokens on the way to a session's reader that was not asked for


async def read_event(call: Any) -> Any:
    """The next message of a stream; None at its end."""
    try:
        event = await call.read()
    except grpc.RpcError as error:
        raise error_of_call(error) from None
    except asyncio.CancelledError:
        # gRPC says so both when the call was cancelled and when the task was.
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 0:
            raise
        raise make_error(grpc.StatusCode.CANCELLED, "the call was cancelled") from None
    if event is not grpc.aio.EOF:
        return event
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return None
    raise make_error(code, await call.details() or "")


class AsyncAnswer(AnswerView):
    """An answer that is being streamed: iterate over it for its pieces."""

    def __init__(
        self,
        state: AnswerState,
        next_event: Callable[[], Awaitable[Any]],
        cancel: Callable[[], Awaitable[None]],
    ) -> None:
        self._state = state
        self._next_event = next_event
        self._cancel = cancel

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        """The next piece.

        Raises:
            GmaError: what the server says, or UnavailableError for a stream that was cut.
        """
        while not self._state.complete and not self._state.failed:
            try:
                event = await self._next_event()
            except BaseException:
                self._state.failed = True
                raise
            if event is None:
                raise self._state.cut()
            piece = self._state.feed(event)
            if piece is not None:
                return piece
        raise StopAsyncIteration

    async def read(self) -> str:
        """Waits for the end and returns the whole text of the first candidate."""
        async for _ in self:
            pass
        return self.text

    async def cancel(self) -> None:
        """Ends the answer early; on a session, it then ends with the reason "cancelled"."""
        await self._cancel()


class AsyncSession:
    """A conversation on one session; use it as `async with client.session() as session`.

    It says goodbye at the end, and breaks off when an exception leaves it.
    """

    def __init__(self, call: Any, open_: generation_pb2.SessionOpen) -> None:
        open_.initial_credit = open_.initial_credit or _CREDIT
        self._call = call
        self._open = open_
        self._last_id = 0
        self._check = SequenceCheck()
        self._answer: AsyncAnswer | None = None
        self._ended = False
        self.session_id = ""
        self.model = ""
        self.resumed = False

    async def __aenter__(self) -> Self:
        opened = (await self._ask(generation_pb2.SessionRequest(open=self._open))).opened
        self.session_id = opened.session_id
        self.model = opened.model
        self.resumed = opened.resumed
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ended:
            return
        if kind is None:
            await self.end()
        else:
            self.abort()

    async def generate(
        self, prompt: Prompt | None = None, *, priority: int = 0, **options: Unpack[Options]
    ) -> AsyncAnswer:
        """Goes on with a text or with token ids; without a prompt, from where it stands."""
        return await self._generate(_convert.input_of_prompt(prompt), options, priority)

    async def chat(
        self, messages: Chat, *, priority: int = 0, **options: Unpack[Options]
    ) -> AsyncAnswer:
        """Answers a message of the user, or several messages."""
        return await self._generate(_convert.input_of_chat(messages), options, priority)

    async def append(self, prompt: Prompt) -> int:
        """Feeds text or token ids without an answer; returns the tokens of the session."""
        return await self._append(_convert.input_of_prompt(prompt))

    async def append_chat(self, messages: Chat) -> int:
        """Feeds messages without an answer; returns the tokens of the session."""
        return await self._append(_convert.input_of_chat(messages))

    async def cancel(self) -> None:
        """Ends the answer that runs."""
        cancel = generation_pb2.SessionCancel()
        await self._write(generation_pb2.SessionRequest(cancel=cancel))

    async def end(self) -> int:
        """Says goodbye; returns the tokens of the session."""
        await self._finish_answer()
        event = await self._ask(generation_pb2.SessionRequest(end=generation_pb2.SessionEnd()))
        self._ended = True
        return event.ended.context_tokens

    def abort(self) -> None:
        """Breaks the stream off."""
        self._ended = True
        self._call.cancel()

    async def _write(self, request: generation_pb2.SessionRequest) -> None:
        # A stream that is over says why when it is read.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(request)

    async def _send(self, request: generation_pb2.SessionRequest) -> int:
        self._last_id += 1
        request.request_id = self._last_id
        await self._write(request)
        return request.request_id

    async def _next_event(self, request_id: int) -> generation_pb2.SessionResponse:
        """The next event that answers `request_id`."""
        while True:
            event = await read_event(self._call)
            if event is None:
                raise make_error(grpc.StatusCode.UNAVAILABLE, "the session's stream has ended")
            self._check.accept(event)
            kind = event.WhichOneof("event")
            if event.request_id != request_id or kind == "heartbeat":
                continue
            if kind == "error":
                raise error_of_number(event.error.code, event.error.message)
            return event

    async def _ask(self, request: generation_pb2.SessionRequest) -> generation_pb2.SessionResponse:
        """Sends a command that has one answer, and waits for it."""
        return await self._next_event(await self._send(request))

    async def _append(self, source: common_pb2.Input) -> int:
        await self._finish_answer()
        request = generation_pb2.SessionRequest(append=generation_pb2.SessionAppend(input=source))
        return (await self._ask(request)).appended.context_tokens

    async def _generate(
        self, source: common_pb2.Input, options: Options, priority: int
    ) -> AsyncAnswer:
        await self._finish_answer()
        request_id = await self._send(_convert.session_generate(source, options, priority))
        ungranted = 0

        async def next_event() -> generation_pb2.SessionResponse:
            nonlocal ungranted
            event = await self._next_event(request_id)
            if event.WhichOneof("event") == "tokens":
                ungranted += len(event.tokens.tokens)
            # What was read is granted again while half of it still flows, and all at the end.
            half_used = 2 * ungranted >= self._open.initial_credit
            if ungranted and (half_used or event.HasField("finished")):
                credit = generation_pb2.SessionCredit(tokens=ungranted)
                await self._write(generation_pb2.SessionRequest(credit=credit))
                ungranted = 0
            return event

        self._answer = AsyncAnswer(AnswerState(), next_event, self.cancel)
        return self._answer

    async def _finish_answer(self) -> None:
        """The server serves one turn at a time: the next command must find the last one ended."""
        answer, self._answer = self._answer, None
        if answer is None or answer._state.complete or answer._state.failed:
            return
        await answer.cancel()
        await answer.read()
