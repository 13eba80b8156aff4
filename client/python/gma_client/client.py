"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, Unpack

import grpc

from gma_client import _convert
from gma_client._answer import AnswerState, SequenceCheck
from gma_client._convert import Chat, Prompt
from gma_client._proto import (
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from gma_client.errors import UnavailableError, error_of_call
from gma_client.session import Answer, Session
from gma_client.types import CheckpointInfo, Message, ModelInfo, RequestOptions, SessionInfo


class Client:
    """A connection to a GMA server; may be shared by threads.

    Args:
        address: host:port.
        api_key: the key; None takes the environment's GMA_API_KEY, if there is one.
        credentials: of `grpc.ssl_channel_credentials`, for TLS; None: no encryption.
        model: name of the model; empty: the server's only one.
        timeout: seconds that a call which is no stream may take; None: no limit.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        model: str = "",
        timeout: float | None = 30.0,
    ) -> None:
        options = _convert.CHANNEL_OPTIONS
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options)
        self._metadata = _convert.metadata_of(api_key)
        self._model = model
        self._timeout = timeout
        self._generation = generation_pb2_grpc.GenerationStub(self._channel)
        self._sessions = sessions_pb2_grpc.SessionsStub(self._channel)
        self._models = models_pb2_grpc.ModelsStub(self._channel)

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
        return Session(self._generation, self._metadata, open_)

    def open_session(self, ttl_seconds: int = 0) -> SessionInfo:
        """Opens a session for calls with its `session_id`."""
        request = sessions_pb2.OpenSessionRequest(model=self._model, ttl_seconds=ttl_seconds)
        return _convert.session_info(self._unary(self._sessions.Open, request))

    def get_session(self, session_id: str) -> SessionInfo:
        """One session of the caller."""
        request = sessions_pb2.GetSessionRequest(session_id=session_id)
        return _convert.session_info(self._unary(self._sessions.Get, request))

    def list_sessions(self, page_size: int = 0) -> Iterator[SessionInfo]:
        """The caller's sessions, page by page."""
        token = ""
        while True:
            request = sessions_pb2.ListSessionsRequest(page_size=page_size, page_token=token)
            page = self._unary(self._sessions.List, request)
            yield from map(_convert.session_info, page.sessions)
            token = page.next_page_token
            if not token:
                return

    def append(
        self, session_id: str, source: Prompt | Sequence[Message], *, wait_if_busy: bool = False
    ) -> SessionInfo:
        """Feeds a text, token ids or messages (a list of mappings) without an answer."""
        request = sessions_pb2.AppendRequest(
            session_id=session_id,
            input=_convert.input_of_any(source),
            wait_if_busy=wait_if_busy,
        )
        return _convert.session_info(self._unary(self._sessions.Append, request))

    def fork_session(self, session_id: str) -> SessionInfo:
        """A second session with the same past."""
        request = sessions_pb2.ForkRequest(session_id=session_id)
        return _convert.session_info(self._unary(self._sessions.Fork, request))

    def checkpoint_session(self, session_id: str, name: str = "") -> CheckpointInfo:
        """Keeps the present state under a name; without one, the server numbers it."""
        request = sessions_pb2.CheckpointRequest(session_id=session_id, name=name)
        return _convert.checkpoint_info(self._unary(self._sessions.Checkpoint, request))

    def list_checkpoints(self, session_id: str) -> list[CheckpointInfo]:
        """The kept states of a session, oldest first."""
        request = sessions_pb2.ListCheckpointsRequest(session_id=session_id)
        answer = self._unary(self._sessions.ListCheckpoints, request)
        return [_convert.checkpoint_info(info) for info in answer.checkpoints]

    def rewind_session(self, session_id: str, target: str | int) -> SessionInfo:
        """Goes back to a checkpoint by its name, or to a number of tokens, exactly.

        Raises:
            OutOfRangeError: naming the oldest position that can be reached.
        """
        request = _convert.rewind_request(session_id, target)
        return _convert.session_info(self._unary(self._sessions.Rewind, request))

    def export_session(self, session_id: str) -> bytes:
        """The session as one sealed blob; it stays on the server."""
        request = sessions_pb2.ExportRequest(session_id=session_id)
        call = self._sessions.Export(request, timeout=self._timeout, metadata=self._metadata)
        try:
            return b"".join(chunk.data for chunk in call)
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def import_session(self, blob: bytes) -> SessionInfo:
        """A new session from an exported one."""
        chunks = _convert.state_chunks(blob)
        return _convert.session_info(self._unary(self._sessions.Import, chunks))

    def close_session(self, session_id: str) -> int:
        """Ends a session; returns the tokens that it had."""
        request = sessions_pb2.CloseSessionRequest(session_id=session_id)
        return self._unary(self._sessions.Close, request).context_tokens

    def models(self) -> list[ModelInfo]:
        """The models that the server serves."""
        answer = self._unary(self._models.List, models_pb2.ListModelsRequest())
        return [_convert.model_info(info) for info in answer.models]

    def model(self, name: str | None = None) -> ModelInfo:
        """One model; that of this client unless it is named."""
        request = models_pb2.GetModelRequest(model=self._model if name is None else name)
        return _convert.model_info(self._unary(self._models.Get, request))

    def tokenize(self, text: str | bytes) -> list[int]:
        """Token ids of a text."""
        request = models_pb2.TokenizeRequest(model=self._model, text=_convert.to_bytes(text))
        return list(self._unary(self._models.Tokenize, request).ids)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """The bytes that token ids stand for."""
        request = models_pb2.DetokenizeRequest(model=self._model, ids=ids)
        return self._unary(self._models.Detokenize, request).text

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
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unary(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def _stream(self, request: generation_pb2.GenerateRequest, timeout: float | None) -> Answer:
        call = self._generation.Generate(request, timeout=timeout, metadata=self._metadata)
        check = SequenceCheck()

        def next_event() -> generation_pb2.GenerateResponse | None:
            try:
                event = next(call)
            except StopIteration:
                return None
            except grpc.RpcError as error:
                raise error_of_call(error) from None
            check.accept(event)
            return event

        return Answer(AnswerState(max(request.n, 1)), next_event, call.cancel)
