"""Answers and sessions of the synchronous client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from gma_client import _convert
from gma_client._answer import AnswerState, AnswerView
from gma_client._commands import OPEN_ID, Commands
from gma_client._convert import Chat, Metadata, Prompt
from gma_client._proto import common_pb2, generation_pb2
from gma_client._resume import Target, Targets, broke_off
from gma_client.errors import GmaError, cut_error, error_of_call
from gma_client.types import Interjection, Options, Piece


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

    A stream that breaks off is followed by another when the server keeps the session (`keep`): the
    command that has no answer yet is sent again, and its key makes it the same turn.

    As a context manager it says goodbye at the end, and breaks off when an exception leaves it.
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
        self._lock = threading.Lock()  # of the commands, which other threads give too
        self._stopped = threading.Event()
        self._answer: Answer | None = None
        self._ended = False
        self._start()
        opened = self._next_event(OPEN_ID).opened
        self.session_id: str = opened.session_id
        self.model: str = opened.model
        self.resumed: bool = opened.resumed

    @property
    def resumes(self) -> int:
        """How often the stream broke off and was followed by another so far."""
        return self._commands.resumes

    @property
    def last_sequence(self) -> int | None:
        """Number of the session's last event: `after` of calls on the session beside this stream.

        None where it cannot be known: while an answer runs, or after somebody else's turns.
        """
        return self._commands.last_sequence

    def generate(
        self, prompt: Prompt | None = None, *, priority: int = 0, **options: Unpack[Options]
    ) -> Answer:
        """Goes on with a text or with token ids; without a prompt, from where it stands."""
        return self._generate(_convert.input_of_prompt(prompt), options, priority)

    def chat(self, messages: Chat, *, priority: int = 0, **options: Unpack[Options]) -> Answer:
        """Answers a message of the user, or several messages."""
        return self._generate(_convert.input_of_chat(messages), options, priority)

    def append(self, prompt: Prompt) -> int:
        """Feeds text or token ids without an answer; returns the tokens of the session.

        As every command, it ends an answer that runs first.
        """
        return self._append(_convert.input_of_prompt(prompt))

    def append_chat(self, messages: Chat) -> int:
        """Feeds messages without an answer; returns the tokens of the session."""
        return self._append(_convert.input_of_chat(messages))

    def interject(self, prompt: Prompt) -> Interjection:
        """Feeds text or token ids between two tokens of the answer that runs, which then goes on.

        Does not wait, and may be called from any thread. Where an answer has just ended, it is fed
        behind it.
        """
        return self._interject(_convert.input_of_prompt(prompt))

    def interject_chat(self, messages: Chat) -> Interjection:
        """As `interject`: messages close the answer so far, and another follows them."""
        return self._interject(_convert.input_of_chat(messages))

    def cancel(self) -> None:
        """Ends the answer that runs. May be called from any thread."""
        with self._lock:
            self._put(self._commands.cancel())

    def end(self) -> int:
        """Says goodbye; returns the tokens of the session."""
        self._finish_answer()
        event = self._ask(generation_pb2.SessionRequest(end=generation_pb2.SessionEnd()))
        self._ended = True
        self._requests.put(None)
        return event.ended.context_tokens

    def abort(self) -> None:
        """Breaks the stream off. May be called from any thread."""
        self._stopped.set()
        with self._lock:
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

    def _start(self) -> None:
        requests: queue.SimpleQueue[generation_pb2.SessionRequest | None] = queue.SimpleQueue()
        requests.put(self._commands.opening())
        self._requests = requests
        self._target: Target = self._targets.current
        metadata = _convert.with_session(self._metadata, self._commands.open.session_id)
        self._call = self._target.generation.Session(iter(requests.get, None), metadata=metadata)

    def _reopen(self, error: GmaError) -> None:
        """Another stream after one that ended with `error`; raises it when there is to be none."""
        if broke_off(error):
            self._targets.leave(self._target)
        if self._ended:
            raise error
        pause = self._commands.reopen(error)
        if self._stopped.wait(pause):
            raise error
        with self._lock:
            self._requests.put(None)  # lets go of the thread that waits for more
            self._start()

    def _next_event(self, request_id: int) -> generation_pb2.SessionResponse:
        """The next event that answers `request_id`."""
        while True:
            try:
                event = next(self._call)
                with self._lock:
                    outcome = self._commands.accept(event, request_id)
                    self._put(outcome.send)
                if outcome.error is not None:
                    raise outcome.error
                if outcome.is_mine:
                    return event
            except StopIteration:
                self._reopen(cut_error())
            except grpc.RpcError as failure:
                self._reopen(error_of_call(failure))

    def _put(self, requests: list[generation_pb2.SessionRequest]) -> None:
        for request in requests:
            self._requests.put(request)

    def _ask(self, request: generation_pb2.SessionRequest) -> generation_pb2.SessionResponse:
        """Sends a command that has one answer, and waits for it."""
        return self._next_event(self._send(request))

    def _send(self, request: generation_pb2.SessionRequest) -> int:
        with self._lock:
            request_id, requests = self._commands.begin(request)
            self._put(requests)
        return request_id

    def _append(self, source: common_pb2.Input) -> int:
        self._finish_answer()
        request = generation_pb2.SessionRequest(append=generation_pb2.SessionAppend(input=source))
        return self._ask(request).appended.context_tokens

    def _interject(self, source: common_pb2.Input) -> Interjection:
        with self._lock:
            interjection, requests = self._commands.interject(source)
            self._put(requests)
        return interjection

    def _generate(self, source: common_pb2.Input, options: Options, priority: int) -> Answer:
        self._finish_answer()
        request_id = self._send(_convert.session_generate(source, options, priority))
        state = AnswerState()
        resumes = self.resumes

        def next_event() -> generation_pb2.SessionResponse:
            event = self._next_event(request_id)
            state.resumes = self.resumes - resumes
            if credit := self._commands.grant(at_end=event.HasField("finished")):
                self._requests.put(credit)
            return event

        self._answer = Answer(state, next_event, self.cancel)
        return self._answer

    def _finish_answer(self) -> None:
        """The server serves one turn at a time: the next command must find the last one ended."""
        answer, self._answer = self._answer, None
        if answer is not None and not (answer._state.complete or answer._state.failed):
            answer.cancel()
            answer.read()
        while (request_id := self._commands.outstanding()) is not None:
            self._next_event(request_id)
