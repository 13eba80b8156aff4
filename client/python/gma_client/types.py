"""What goes into a request and comes out of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One message of a conversation; the role is "system", "user" or "assistant"."""

    role: str
    content: str


class Options(TypedDict, total=False):
    """Sampling and stopping; proto/gma/v1/common.proto has every range. Absent: the default."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    banned_tokens: Sequence[int]
    allowed_tokens: Sequence[int]
    seed: int
    top_logprobs: int
    max_tokens: int
    min_tokens: int
    stop_tokens: Sequence[int]
    stop_strings: Sequence[str | bytes]
    ignore_eos: bool


class RequestOptions(Options, total=False):
    """What a request outside a `Session` stream may say besides; ranges as in generation.proto."""

    session_id: str
    n: int
    wait_if_busy: bool
    priority: int
    request_key: bytes
    after: int


@dataclass(frozen=True)
class Logprob:
    """A token that could have been drawn, and the natural logarithm of its probability."""

    token: int
    text: bytes
    logprob: float


@dataclass(frozen=True)
class Token:
    """One generated token; its bytes can end inside a character."""

    id: int
    text: bytes
    logprob: float | None
    top_logprobs: tuple[Logprob, ...]


@dataclass(frozen=True)
class Piece:
    """A piece of an answer: whole characters, and the tokens that they came in."""

    text: str
    tokens: tuple[Token, ...]
    candidate: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Usage:
    """Tokens of the request's input; not fed, because they had been read before; generated."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """Seconds of the server's clock."""

    queue: float
    prefill: float
    decode: float
    first_token: float


@dataclass(frozen=True)
class Finish:
    """How one candidate ended.

    The reason is "stop_token", "stop_string", "end_of_text", "length" or "cancelled".
    """

    reason: str
    usage: Usage
    timings: Timings


@dataclass
class Interjection:
    """Input that was given while an answer ran; says what became of it once the reader is there.

    Attributes:
        context_tokens: of the session with it, once it has entered.
        error: why it was refused.
    """

    context_tokens: int | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class SessionInfo:
    """A session on the server; its state takes the same bytes at any length."""

    session_id: str
    model: str
    state: str
    context_tokens: int
    state_bytes: int
    age_seconds: int
    idle_seconds: int
    ttl_seconds: int
    checkpoints: int
    checkpoint_bytes: int
    oldest_rewind_tokens: int
    tier: str  # "pool", "memory" or "disk"
    last_sequence: int  # number of its last event
    pinned: bool


@dataclass(frozen=True)
class CheckpointInfo:
    """A kept state of a session; an automatic one has no name."""

    name: str
    context_tokens: int
    automatic: bool


@dataclass(frozen=True)
class ModelInfo:
    """A model and the capacity that the server really has for it."""

    name: str
    fingerprint: str
    parameter_count: int
    vocab_size: int
    num_layers: int
    num_attention_heads: int
    num_memory_heads: int
    num_components: int
    state_bytes: int
    session_capacity: int
    sessions_in_use: int
    max_step_tokens: int
    max_batch_rows: int
    device: str
    weights: str
    has_chat_format: bool
    server_version: str
