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
from gma_client._answer import AnswerState, AnswerView
from gma_client._commands import OPEN_ID, Commands
from gma_client._convert import Chat, Metadata, Prompt
from gma_client._proto import common_pb2, generation_pb2
from gma_client._resume import Targets, broke_off
from gma_client.errors import GmaError, cut_error, error_of_call, make_error
from gma_client.types import Interjection, Options, Piece


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


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Waits so long, or until `event` is set; whether it is."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


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
                if event is None and not self._state.open_end:
                    raise cut_error()
            except BaseException:
                self._state.failed = True
                raise
            if event is None:
                break
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

    A stream that breaks off is followed by another, as of `gma_client.Session`.
    It says goodbye at the end, and breaks off when an exception leaves it.
    """

    def __init__(
        self,
        targets: Targets,
        metadata: Metadata,
        open_: generation_pb2.SessionOpen,
        resume_for: float,
    ) -> None:
        self._targets = targets
        self._metadata = metadata
        self._commands = Commands(open_, resume_for)
        self._stopped = asyncio.Event()
        self._answer: AsyncAnswer | None = None
        self._ended = False
        self.session_id = ""
        self.model = ""
        self.resumed = False

    @property
    def resumes(self) -> int:
        """How often the stream broke off and was followed by another so far."""
        return self._commands.resumes

    @property
    def last_sequence(self) -> int | None:
        """As of `gma_client.Session`."""
        return self._commands.last_sequence

    async def __aenter__(self) -> Self:
        await self._start()
        opened = (await self._next_event(OPEN_ID)).opened
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
        """Feeds text or token ids without an answer; returns the tokens of the session.

        As every command, it ends an answer that runs first.
        """
        return await self._append(_convert.input_of_prompt(prompt))

    async def append_chat(self, messages: Chat) -> int:
        """Feeds messages without an answer; returns the tokens of the session."""
        return await self._append(_convert.input_of_chat(messages))

    async def interject(self, prompt: Prompt) -> Interjection:
        """Feeds text or token ids between two tokens of the answer that runs, which then goes on.

        Does not wait for that. Where an answer has just ended, it is fed behind it.
        """
        return await self._interject(_convert.input_of_prompt(prompt))

    async def interject_chat(self, messages: Chat) -> Interjection:
        """As `interject`: messages close the answer so far, and another follows them."""
        return await self._interject(_convert.input_of_chat(messages))

    async def cancel(self) -> None:
        """Ends the answer that runs."""
        await self._write(self._commands.cancel())

    async def end(self) -> int:
        """Says goodbye; returns the tokens of the session."""
        await self._finish_answer()
        event = await self._ask(generation_pb2.SessionRequest(end=generation_pb2.SessionEnd()))
        self._ended = True
        return event.ended.context_tokens

    def abort(self) -> None:
        """Breaks the stream off."""
        self._ended = True
        self._stopped.set()
        self._call.cancel()

    async def _start(self) -> None:
        self._target = self._targets.current
        metadata = _convert.with_session(self._metadata, self._commands.open.session_id)
        self._call = self._target.generation.Session(metadata=metadata)
        await self._write([self._commands.opening()])

    async def _reopen(self, error: GmaError) -> None:
        """Another stream after one that ended with `error`; raises it when there is to be none."""
        if broke_off(error):
            self._targets.leave(self._target)
        if self._ended:
            raise error
        pause = self._commands.reopen(error)
        if await wait_for(self._stopped, pause):
            raise error
        await self._start()

    async def _next_event(self, request_id: int) -> generation_pb2.SessionResponse:
        """The next event that answers `request_id`."""
        while True:
            try:
                event = await read_event(self._call)
                if event is None:
                    raise cut_error()
            except GmaError as error:
                await self._reopen(error)
                continue
            outcome = self._commands.accept(event, request_id)
            await self._write(outcome.send)
            if outcome.error is not None:
                raise outcome.error
            if outcome.is_mine:
                return event

    async def _write(self, requests: list[generation_pb2.SessionRequest]) -> None:
        # A stream that is over says why when it is read.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            for request in requests:
                await self._call.write(request)

    async def _ask(self, request: generation_pb2.SessionRequest) -> generation_pb2.SessionResponse:
        """Sends a command that has one answer, and waits for it."""
        return await self._next_event(await self._send(request))

    async def _send(self, request: generation_pb2.SessionRequest) -> int:
        request_id, requests = self._commands.begin(request)
        await self._write(requests)
        return request_id

    async def _append(self, source: common_pb2.Input) -> int:
        await self._finish_answer()
        request = generation_pb2.SessionRequest(append=generation_pb2.SessionAppend(input=source))
        return (await self._ask(request)).appended.context_tokens

    async def _interject(self, source: common_pb2.Input) -> Interjection:
        interjection, requests = self._commands.interject(source)
        await self._write(requests)
        return interjection

    async def _generate(
        self, source: common_pb2.Input, options: Options, priority: int
    ) -> AsyncAnswer:
        await self._finish_answer()
        request_id = await self._send(_convert.session_generate(source, options, priority))
        state = AnswerState()
        resumes = self.resumes

        async def next_event() -> generation_pb2.SessionResponse:
            event = await self._next_event(request_id)
            state.resumes = self.resumes - resumes
            if credit := self._commands.grant(at_end=event.HasField("finished")):
                await self._write([credit])
            return event

        self._answer = AsyncAnswer(state, next_event, self.cancel)
        return self._answer

    async def _finish_answer(self) -> None:
        """The server serves one turn at a time: the next command must find the last one ended."""
        answer, self._answer = self._answer, None
        if answer is not None and not (answer._state.complete or answer._state.failed):
            await answer.cancel()
            await answer.read()
        while (request_id := self._commands.outstanding()) is not None:
            await self._next_event(request_id)
