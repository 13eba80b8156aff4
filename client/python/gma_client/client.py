"""The synchronous client."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, Unpack

import grpc

from gma_client import _convert
from gma_client._answer import AnswerState
from gma_client._convert import Chat, Prompt
from gma_client._proto import generation_pb2, models_pb2, sessions_pb2
from gma_client._resume import (
    Progress,
    Retries,
    StreamRequest,
    Target,
    Targets,
    broke_off,
    request_key,
)
from gma_client.errors import UnavailableError, cut_error, error_of_call, make_error
from gma_client.session import Answer, Session
from gma_client.types import CheckpointInfo, Message, ModelInfo, RequestOptions, SessionInfo


class Client:
    """A connection to a GMA server; may be shared by threads.

    Args:
        address: host:port; or several, separated by commas: replicas that hold the same sessions.
            Calls go to one, and to the next when a call to it breaks off.
        api_key: the key; None takes the environment's GMA_API_KEY, if there is one.
        credentials: of `grpc.ssl_channel_credentials`, for TLS; None: no encryption.
        model: name of the model; empty: the server's only one.
        timeout: seconds that a call which is no stream may take; None: no limit.
        resume_for: a call that breaks off (the server dies, restarts or drains, the network fails)
            is gone on with by itself: answers, sessions with `keep`, `append`, `get_session`.
            Nothing comes twice and nothing is lost; what the server refuses is an error at once. So
            many seconds it is tried without anything new; 0: never, and the break is the error.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        model: str = "",
        timeout: float | None = 30.0,
        resume_for: float = 60.0,
    ) -> None:
        options = _convert.CHANNEL_OPTIONS
        self._targets = Targets(
            [
                Target(
                    grpc.insecure_channel(one, options)
                    if credentials is None
                    else grpc.secure_channel(one, credentials, options)
                )
                for one in address.split(",")
            ]
        )
        self._resume_for = resume_for
        self._metadata = _convert.metadata_of(api_key)
        self._model = model
        self._timeout = timeout

    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Answer:
        """Continues a text or token ids; `timeout` is of the whole answer, in seconds."""
        source = _convert.input_of_prompt(prompt)
        return self._stream(_convert.generate_request(self._model, source, options), timeout)

    def chat(
        self,
        messages: Chat,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Answer:
        """Answers a conversation, or one message of the user; else as `generate`."""
        source = _convert.input_of_chat(messages)
        return self._stream(_convert.generate_request(self._model, source, options), timeout)

    def session(
        self,
        session_id: str = "",
        *,
        keep: bool = False,
        ttl_seconds: int = 0,
        credit: int = 0,
    ) -> Session:
        """Opens a session on a stream of its own, or resumes one.

        Args:
            session_id: an open session to go on with; empty: a new one.
            keep: the session stays open when the stream ends.
            ttl_seconds: idle time after which it expires; 0: the server's default.
            credit: tokens that the server may be ahead of the reader; 0: 256.
        """
        open_ = generation_pb2.SessionOpen(
            model=self._model,
            session_id=session_id,
            ttl_seconds=ttl_seconds,
            initial_credit=credit,
            keep=keep,
        )
        return Session(self._targets, self._metadata, open_, self._resume_for)

    def resume_session(
        self, session_id: str, after: int, *, timeout: float | None = None
    ) -> Answer:
        """The events of the session's last turn after number `after` (`Answer.last_sequence`).

        Those that the server keeps, then live to the end. Takes the turn over from whoever reads
        it. Empty when the turn is over and had no more.
        """
        request = generation_pb2.ResumeRequest(session_id=session_id, after=after)
        return self._stream(request, timeout)

    def open_session(self, ttl_seconds: int = 0, *, pinned: bool = False) -> SessionInfo:
        """Opens a session for calls with its `session_id`; `pinned` as by `pin_session`."""
        request = sessions_pb2.OpenSessionRequest(
            model=self._model, ttl_seconds=ttl_seconds, pinned=pinned
        )
        return _convert.session_info(self._unary("sessions.Open", request))

    def get_session(self, session_id: str) -> SessionInfo:
        """One session of the caller."""
        request = sessions_pb2.GetSessionRequest(session_id=session_id)
        return _convert.session_info(self._unary("sessions.Get", request, again=True))

    def list_sessions(self, page_size: int = 0) -> Iterator[SessionInfo]:
        """The caller's sessions, page by page."""
        token = ""
        while True:
            request = sessions_pb2.ListSessionsRequest(page_size=page_size, page_token=token)
            page = self._unary("sessions.List", request)
            yield from map(_convert.session_info, page.sessions)
            token = page.next_page_token
            if not token:
                return

    def append(
        self,
        session_id: str,
        source: Prompt | Sequence[Message],
        *,
        wait_if_busy: bool = False,
        after: int | None = None,
    ) -> SessionInfo:
        """Feeds a text, token ids or messages (a list of mappings) without an answer.

        Args:
            after: the last event of the session that was seen, behind which alone it is fed.

        Raises:
            GmaError: with the code ABORTED, when somebody else used the session since `after`.
            DataLossError: the session's state is older than `after`.
        """
        request = sessions_pb2.AppendRequest(
            session_id=session_id,
            input=_convert.input_of_any(source),
            wait_if_busy=wait_if_busy,
            request_key=request_key() if self._resume_for > 0 else b"",
            after=after,
        )
        return _convert.session_info(self._unary("sessions.Append", request, again=True))

    def fork_session(self, session_id: str) -> SessionInfo:
        """A second session with the same past."""
        request = sessions_pb2.ForkRequest(session_id=session_id)
        return _convert.session_info(self._unary("sessions.Fork", request))

    def checkpoint_session(self, session_id: str, name: str = "") -> CheckpointInfo:
        """Keeps the present state under a name; without one, the server numbers it."""
        request = sessions_pb2.CheckpointRequest(session_id=session_id, name=name)
        return _convert.checkpoint_info(self._unary("sessions.Checkpoint", request))

    def list_checkpoints(self, session_id: str) -> list[CheckpointInfo]:
        """The kept states of a session, oldest first."""
        request = sessions_pb2.ListCheckpointsRequest(session_id=session_id)
        answer = self._unary("sessions.ListCheckpoints", request)
        return [_convert.checkpoint_info(info) for info in answer.checkpoints]

    def delete_checkpoint(self, session_id: str, checkpoint: str) -> None:
        """Forgets a checkpoint, by its name or number."""
        request = sessions_pb2.DeleteCheckpointRequest(session_id=session_id, checkpoint=checkpoint)
        self._unary("sessions.DeleteCheckpoint", request)

    def pin_session(self, session_id: str, pinned: bool = True) -> SessionInfo:
        """A pinned session is never parked: its state stays where the model works on it."""
        request = sessions_pb2.PinRequest(session_id=session_id, pinned=pinned)
        return _convert.session_info(self._unary("sessions.Pin", request))

    def rewind_session(
        self, session_id: str, target: str | int, *, after: int | None = None
    ) -> SessionInfo:
        """Goes back to a checkpoint by its name, or to a number of tokens, exactly.

        From event `after` of the session alone, when that is given (as `append`).

        Raises:
            OutOfRangeError: naming the oldest position that can be reached.
        """
        request = _convert.rewind_request(session_id, target, after)
        return _convert.session_info(self._unary("sessions.Rewind", request))

    def export_session(self, session_id: str) -> bytes:
        """The session as one sealed blob; it stays on the server."""
        request = sessions_pb2.ExportRequest(session_id=session_id)
        return self._unary("sessions.Export", request, again=True, read=_convert.blob_of)

    def import_session(self, blob: bytes) -> SessionInfo:
        """A new session from an exported one."""
        chunks = _convert.state_chunks(blob)
        return _convert.session_info(self._unary("sessions.Import", chunks))

    def close_session(self, session_id: str) -> int:
        """Ends a session; returns the tokens that it had."""
        request = sessions_pb2.CloseSessionRequest(session_id=session_id)
        return self._unary("sessions.Close", request).context_tokens

    def models(self) -> list[ModelInfo]:
        """The models that the server serves."""
        answer = self._unary("models.List", models_pb2.ListModelsRequest())
        return [_convert.model_info(info) for info in answer.models]

    def model(self, name: str | None = None) -> ModelInfo:
        """One model; that of this client unless it is named."""
        request = models_pb2.GetModelRequest(model=self._model if name is None else name)
        return _convert.model_info(self._unary("models.Get", request))

    def tokenize(self, text: str | bytes) -> list[int]:
        """Token ids of a text."""
        request = models_pb2.TokenizeRequest(model=self._model, text=_convert.to_bytes(text))
        return list(self._unary("models.Tokenize", request).ids)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """The bytes that token ids stand for."""
        request = models_pb2.DetokenizeRequest(model=self._model, ids=ids)
        return self._unary("models.Detokenize", request).text

    def wait_until_serving(self, timeout: float = 30.0) -> ModelInfo:
        """Waits for a server that starts up or loads its model; `timeout` in seconds."""
        end = time.monotonic() + timeout
        while True:
            try:
                return self.model()
            except UnavailableError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.1)  # only asking again can tell

    def close(self) -> None:
        """Closes the connection; what runs on it is cancelled."""
        for target in self._targets.all:
            target.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unary(
        self,
        method: str,
        request: Any,
        again: bool = False,
        read: Callable[[Any], Any] = lambda response: response,
    ) -> Any:
        retries = Retries(self._resume_for)
        metadata = _convert.with_session(self._metadata, getattr(request, "session_id", ""))
        while True:
            target = self._targets.current
            call = operator.attrgetter(method)(target)
            try:
                return read(call(request, timeout=self._timeout, metadata=metadata))
            except grpc.RpcError as failure:
                error = error_of_call(failure)
            if not broke_off(error):
                raise error
            self._targets.leave(target)
            if not again:
                raise error
            time.sleep(retries.pause(error))

    def _stream(self, request: StreamRequest, timeout: float | None) -> Answer:
        progress = Progress(request, self._resume_for > 0)
        candidates = 1 if progress.is_resume else max(request.n, 1)
        state = AnswerState(candidates, open_end=progress.is_resume)
        source = _AnswerSource(self._targets, self._metadata, self._resume_for, timeout)
        source.start(progress)
        return Answer(state, lambda: source.next_event(progress, state), source.cancel)


class _AnswerSource:
    """The events of one answer, over as many calls as it takes."""

    def __init__(
        self,
        targets: Targets,
        metadata: _convert.Metadata,
        resume_for: float,
        timeout: float | None,
    ) -> None:
        self._targets = targets
        self._metadata = metadata
        self._retries = Retries(resume_for)
        self._end = None if timeout is None else time.monotonic() + timeout
        self._cancelled = threading.Event()

    def start(self, progress: Progress) -> None:
        """Makes the call."""
        self._target = self._targets.current
        stub = self._target.generation
        method = stub.Resume if progress.is_resume else stub.Generate
        left = None if self._end is None else max(self._end - time.monotonic(), 0.0)
        metadata = _convert.with_session(self._metadata, progress.request.session_id)
        self._call = method(progress.request, timeout=left, metadata=metadata)

    def cancel(self) -> None:
        """Ends it for good; from any thread."""
        self._cancelled.set()
        self._call.cancel()

    def next_event(
        self, progress: Progress, state: AnswerState
    ) -> generation_pb2.GenerateResponse | None:
        """The next event that the reader does not have; None: nothing (more) is to be told."""
        while True:
            try:
                event = next(self._call)
            except StopIteration:
                if progress.is_resume:
                    return None
                error = cut_error()
            except grpc.RpcError as failure:
                error = error_of_call(failure)
            else:
                if not progress.accept(event):
                    continue
                if event.sequence:
                    self._retries.progress()
                return event
            if broke_off(error):
                self._targets.leave(self._target)
            if self._cancelled.is_set() or not progress.may_retry(error):
                raise error
            if self._cancelled.wait(self._retries.pause(error)):
                raise make_error(grpc.StatusCode.CANCELLED, "the answer was cancelled")
            progress.again()
            state.resumes = progress.resumes
            self.start(progress)
