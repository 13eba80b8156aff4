"""Python values to messages of the API and back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gma_client._proto import common_pb2, generation_pb2, models_pb2, sessions_pb2
from gma_client.types import (
    CheckpointInfo,
    Message,
    ModelInfo,
    Options,
    RequestOptions,
    SessionInfo,
)

Metadata = tuple[tuple[str, str], ...]
Prompt = str | bytes | Sequence[int]
Chat = str | Sequence[Message]

# Options of the request itself; all others are of its sampling and stopping.
_REQUEST = RequestOptions.__annotations__.keys() - Options.__annotations__.keys()
_STOP = {"max_tokens", "min_tokens", "stop_tokens", "ignore_eos"}

_CHUNK_BYTES = 256 << 10
_SESSION_KEY = "gma-session"
_SESSION_ID = re.compile("[0-9a-fA-F]{32}")

CHANNEL_OPTIONS = [
    # A proxy of the environment is for the web; it would break calls to this machine.
    ("grpc.enable_http_proxy", 0),
    # gRPC does not notice a reset that comes together with data (it happens when a server is
    # killed), so a server that is silent for 6 s is asked whether it is there; it allows 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A connection that is lost is made again after its name was resolved, numbers too: at most
    # once in this time, which is half a minute by default.
    ("grpc.dns_min_time_between_resolutions_ms", 200),
    ("grpc.max_receive_message_length", 64 << 20),
]


def to_bytes(text: str | bytes) -> bytes:
    """Text as UTF-8; bytes as they are."""
    return text.encode() if isinstance(text, str) else bytes(text)


def input_of_prompt(prompt: Prompt | None) -> common_pb2.Input:
    """Plain text or token ids; None or nothing goes on from where the session stands."""
    if prompt is None:
        return common_pb2.Input()
    if isinstance(prompt, str | bytes):
        return common_pb2.Input(text=to_bytes(prompt)) if prompt else common_pb2.Input()
    return common_pb2.Input(tokens=common_pb2.TokenInput(ids=prompt))


def input_of_chat(messages: Chat) -> common_pb2.Input:
    """Messages of a conversation; a string is one message of the user."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return common_pb2.Input(
        chat=common_pb2.ChatInput(
            messages=[
                common_pb2.ChatMessage(role=m["role"], content=to_bytes(m["content"]))
                for m in messages
            ]
        )
    )


def input_of_any(source: Prompt | Sequence[Message]) -> common_pb2.Input:
    """A text, token ids, or messages."""
    if not isinstance(source, str | bytes) and source and isinstance(source[0], Mapping):
        return input_of_chat(source)  # type: ignore[arg-type]
    return input_of_prompt(source)  # type: ignore[arg-type]


def split_options(options: Options) -> tuple[common_pb2.SamplingParams, common_pb2.StopParams]:
    """The two messages that hold the options.

    Raises:
        TypeError: for a name that is no option.
    """
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    sampling: dict[str, Any] = {}
    stop: dict[str, Any] = {}
    for name, value in options.items():
        if name == "logit_bias":
            assert isinstance(value, Mapping)
            sampling[name] = [
                common_pb2.LogitBias(token=token, bias=bias) for token, bias in value.items()
            ]
        elif name == "stop_strings":
            assert isinstance(value, Sequence)
            stop[name] = [to_bytes(text) for text in value]
        elif name in _STOP:
            stop[name] = value
        else:
            sampling[name] = value
    return common_pb2.SamplingParams(**sampling), common_pb2.StopParams(**stop)


def generate_request(
    model: str, source: common_pb2.Input, options: RequestOptions
) -> generation_pb2.GenerateRequest:
    """The request of one answer."""
    of_request = {name: value for name, value in options.items() if name in _REQUEST}
    of_answer = {name: value for name, value in options.items() if name not in _REQUEST}
    sampling, stop = split_options(of_answer)  # type: ignore[arg-type]
    return generation_pb2.GenerateRequest(
        model=model, input=source, sampling=sampling, stop=stop, **of_request
    )


def session_generate(
    source: common_pb2.Input, options: Options, priority: int
) -> generation_pb2.SessionRequest:
    """The command that starts an answer on a session."""
    sampling, stop = split_options(options)
    return generation_pb2.SessionRequest(
        generate=generation_pb2.SessionGenerate(
            input=source, sampling=sampling, stop=stop, priority=priority
        )
    )


def metadata_of(api_key: str | None) -> Metadata:
    """Metadata of every call; without a key, that of the environment's GMA_API_KEY."""
    key = os.environ.get("GMA_API_KEY", "") if api_key is None else api_key
    return (("authorization", f"Bearer {key}"),) if key else ()


def with_session(metadata: Metadata, session_id: str) -> Metadata:
    """Metadata of a call for one session.

    A proxy before several servers can send the calls of a session to one of them by it; that is
    only a hint, every server can serve every session.
    """
    # What is no id is refused by the server.
    return (
        (*metadata, (_SESSION_KEY, session_id)) if _SESSION_ID.fullmatch(session_id) else metadata
    )


def session_info(info: sessions_pb2.SessionInfo) -> SessionInfo:
    """A session as a value."""
    state = sessions_pb2.SessionState.Name(info.state).removeprefix("SESSION_STATE_").lower()
    tier = sessions_pb2.SessionTier.Name(info.tier).removeprefix("SESSION_TIER_").lower()
    others = SessionInfo.__annotations__.keys() - {"state", "tier"}
    return SessionInfo(state=state, tier=tier, **{name: getattr(info, name) for name in others})


def checkpoint_info(info: sessions_pb2.CheckpointInfo) -> CheckpointInfo:
    """A checkpoint as a value."""
    return CheckpointInfo(info.name, info.context_tokens, info.automatic)


def rewind_request(
    session_id: str, target: str | int, after: int | None
) -> sessions_pb2.RewindRequest:
    """To a checkpoint by its name, or to a number of tokens."""
    if isinstance(target, str):
        return sessions_pb2.RewindRequest(session_id=session_id, checkpoint=target, after=after)
    return sessions_pb2.RewindRequest(session_id=session_id, context_tokens=target, after=after)


def state_chunks(blob: bytes) -> Iterator[sessions_pb2.StateChunk]:
    """An exported session in pieces for the wire."""
    for start in range(0, len(blob), _CHUNK_BYTES):
        yield sessions_pb2.StateChunk(data=blob[start : start + _CHUNK_BYTES])


def blob_of(chunks: Iterable[sessions_pb2.StateChunk]) -> bytes:
    """An exported session from its pieces."""
    return b"".join(chunk.data for chunk in chunks)


def model_info(info: models_pb2.ModelInfo) -> ModelInfo:
    """A model as a value."""
    return ModelInfo(**{name: getattr(info, name) for name in ModelInfo.__annotations__})
