"""Answers and sessions of the synchronous client."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from gma_client import _convert
from gma_client._answer import AnswerState, AnswerView, SequenceCheck
from gma_client._convert import Chat, Prompt
from gma_client._proto import common_pb2, generation_pb2, generation_pb2_grpc
from gma_client.errors import error_of_call, error_of_number, make_error
from gma_client.types import Options, Piece

_CREDIT = 256  # tokens on the way to a session's reader that was not asked for


class Answer(AnswerView):
    """An answer that is being streamed: iterate over it for its pieces.

    `cancel` may be called from any thread; all else belongs to one.
    """

    def __init__(
        self,
        state: AnswerState,
        next_event: Callable[[], Any],
        cancel: Callable[[], None],
    ) -> None:
        self._state = state
        self._next_event = next_event
        self._cancel = cancel

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        """The next piece; blocks until it is there.

        Raises:
            GmaError: what the server says, or UnavailableError for a stream that was cut.
        """
        while not self._state.complete and not self._state.failed:
            try:
                event = self._next_event()
            except BaseException:
                self._state.failed = True
                raise
            if event is None:
                raise self._state.cut()
            piece = self._state.feed(event)
            if piece is not None:
                return piece
        raise StopIteration

    def read(self) -> str:
        """Waits for the end and returns the whole text of the first candidate."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """Ends the answer early; on a session, it then ends with the reason "cancelled"."""
        self._cancel()


class Session:
    """A conversation on one session of the server; made by `Client.session`.

    As a context manager it says goodbye at the end, and breaks off when an exception leaves it.
    """

    def __init__(
        self,
        stub: generation_pb2_grpc.GenerationStub,
        metadata: list[tuple[str, str]],
        open_: generation_pb2.SessionOpen,
    ) -> None:
        open_.initial_credit = open_.initial_credit or _CREDIT
        self._credit = open_.initial_credit
        self._last_id = 0
        self._check = SequenceCheck()
        self._answer: Answer | None = None
        self._ended = False
        self._requests: queue.SimpleQueue[generation_pb2.SessionRequest | None] = (
            queue.SimpleQueue()
        )
        self._call = stub.Session(iter(self._requests.get, None), metadata=metadata)
        opened = self._ask(generation_pb2.SessionRequest(open=open_)).opened
        self.session_id: str = opened.session_id
        self.model: str = opened.model
        self.resumed: bool = opened.resumed

    def generate(
        self, prompt: Prompt | None = None, *, priority: int = 0, **options: Unpack[Options]
    ) -> Answer:
        """Goes on with a text or with token ids; without a prompt, from where it stands."""
        return self._generate(_convert.input_of_prompt(prompt), options, priority)

    def chat(self, messages: Chat, *, priority: int = 0, **options: Unpack[Options]) -> Answer:
        """Answers a message of the user, or several messages."""
        return self._generate(_convert.input_of_chat(messages), options, priority)

    def append(self, prompt: Prompt) -> int:
        """Feeds text or token ids without an answer; returns the tokens of the session."""
        return self._append(_convert.input_of_prompt(prompt))

    def append_chat(self, messages: Chat) -> int:
        """Feeds messages without an answer; returns the tokens of the session."""
        return self._append(_convert.input_of_chat(messages))

    def cancel(self) -> None:
        """Ends the answer that runs. May be called from any thread."""
        self._requests.put(generation_pb2.SessionRequest(cancel=generation_pb2.SessionCancel()))

    def end(self) -> int:
        """Says goodbye; returns the tokens of the session."""
        self._finish_answer()
        event = self._ask(generation_pb2.SessionRequest(end=generation_pb2.SessionEnd()))
        self._ended = True
        self._requests.put(None)
        return event.ended.context_tokens

    def abort(self) -> None:
        """Breaks the stream off."""
        self._ended = True
        self._requests.put(None)
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ended:
            return
        if kind is None:
            self.end()
        else:
            self.abort()

    def _send(self, request: generation_pb2.SessionRequest) -> int:
        self._last_id += 1
        request.request_id = self._last_id
        self._requests.put(request)
        return self._last_id

    def _next_event(self, request_id: int) -> generation_pb2.SessionResponse:
        """The next event that answers `request_id`."""
        while True:
            try:
                event = next(self._call)
            except StopIteration:
                raise make_error(
                    grpc.StatusCode.UNAVAILABLE, "the session's stream has ended"
                ) from None
            except grpc.RpcError as error:
                raise error_of_call(error) from None
            self._check.accept(event)
            kind = event.WhichOneof("event")
            if event.request_id != request_id or kind == "heartbeat":
                continue
            if kind == "error":
                raise error_of_number(event.error.code, event.error.message)
            return event

    def _ask(self, request: generation_pb2.SessionRequest) -> generation_pb2.SessionResponse:
        """Sends a command that has one answer, and waits for it."""
        return self._next_event(self._send(request))

    def _append(self, source: common_pb2.Input) -> int:
        self._finish_answer()
        request = generation_pb2.SessionRequest(append=generation_pb2.SessionAppend(input=source))
        return self._ask(request).appended.context_tokens

    def _generate(self, source: common_pb2.Input, options: Options, priority: int) -> Answer:
        self._finish_answer()
        request_id = self._send(_convert.session_generate(source, options, priority))
        ungranted = 0

        def next_event() -> generation_pb2.SessionResponse:
            nonlocal ungranted
            event = self._next_event(request_id)
            if event.WhichOneof("event") == "tokens":
                ungranted += len(event.tokens.tokens)
            # What was read is granted again while half of it still flows, and all at the end.
            if ungranted and (2 * ungranted >= self._credit or event.HasField("finished")):
                credit = generation_pb2.SessionCredit(tokens=ungranted)
                self._requests.put(generation_pb2.SessionRequest(credit=credit))
                ungranted = 0
            return event

        self._answer = Answer(AnswerState(), next_event, self.cancel)
        return self._answer

    def _finish_answer(self) -> None:
        """The server serves one turn at a time: the next command must find the last one ended."""
        answer, self._answer = self._answer, None
        if answer is None or answer._state.complete or answer._state.failed:
            return
        answer.cancel()
        answer.read()
