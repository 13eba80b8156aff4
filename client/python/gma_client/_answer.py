"""One answer, event by event: shared by the synchronous and the asynchronous client."""

from __future__ import annotations

import codecs
from typing import Protocol

import grpc

from gma_client._proto import common_pb2, generation_pb2
from gma_client.errors import make_error
from gma_client.types import Finish, Logprob, Piece, Timings, Token, Usage

_Decoder = codecs.getincrementaldecoder("utf-8")


class Event(Protocol):
    """What GenerateResponse and SessionResponse have in common."""

    sequence: int
    started: generation_pb2.Started
    tokens: generation_pb2.Tokens
    finished: generation_pb2.Finished
    appended: generation_pb2.Appended

    def WhichOneof(self, oneof: str) -> str | None:  # noqa: N802
        """The name of the event that is set."""


class SequenceCheck:
    """Notices events of a stream that were lost or repeated."""

    def __init__(self, last: int = 0) -> None:
        self._next = last + 1

    @property
    def last(self) -> int:
        """Number of the last event."""
        return self._next - 1

    def accept(self, event: Event) -> None:
        """Takes the next event; raises DataLossError when it is not the one that is due."""
        kind = event.WhichOneof("event")
        if event.sequence == 0:  # not an event of the session
            return
        if kind in ("started", "appended"):  # the session may have had other turns before
            self._next = max(self._next, event.sequence)
        if event.sequence != self._next:
            raise make_error(
                grpc.StatusCode.DATA_LOSS,
                f"the stream lost or repeated events: sequence {event.sequence} came where "
                f"{self._next} was due",
            )
        self._next += len(event.tokens.tokens) if kind == "tokens" else 1


class AnswerState:
    """Puts an answer together.

    Args:
        candidates: how many ends it has.
        open_end: it may be over without an end: of a turn that was over, nothing may be left.
    """

    def __init__(self, candidates: int = 1, open_end: bool = False) -> None:
        self.open_end = open_end
        self.seed: int | None = None
        self.model_fingerprint = ""
        self.finishes: dict[int, Finish] = {}
        self._candidates = candidates
        self._decoders = [_Decoder("replace") for _ in range(candidates)]
        self._texts: list[list[str]] = [[] for _ in range(candidates)]
        self.last_sequence = 0
        self.resumes = 0
        self.failed = False  # nothing comes any more

    @property
    def complete(self) -> bool:
        """Every candidate has ended."""
        return len(self.finishes) == self._candidates

    def text(self, candidate: int) -> str:
        """The text so far, in whole characters."""
        return "".join(self._texts[candidate])

    def feed(self, event: Event) -> Piece | None:
        """Takes the next event; the piece of the answer that it brings, if any."""
        kind = event.WhichOneof("event")
        if event.sequence:
            more = len(event.tokens.tokens) - 1 if kind == "tokens" else 0
            self.last_sequence = event.sequence + more
        if kind == "started":
            self.seed = event.started.seed
            self.model_fingerprint = event.started.model_fingerprint
        elif kind == "tokens":
            return self._tokens(event.tokens)
        elif kind == "finished":
            return self._finish(event.finished)
        elif kind == "appended" and event.appended.text:
            # Input entered the answer, and no stop string reaches over one.
            text = self._decoders[0].decode(event.appended.text)
            self._texts[0].append(text)
            return Piece(text, (), 0)
        return None

    def _tokens(self, message: generation_pb2.Tokens) -> Piece:
        tokens = tuple(_token(token) for token in message.tokens)
        decoder = self._decoders[message.candidate]
        text = decoder.decode(b"".join(token.text for token in tokens))
        self._texts[message.candidate].append(text)
        return Piece(text, tokens, message.candidate)

    def _finish(self, message: generation_pb2.Finished) -> Piece | None:
        text = self._decoders[message.candidate].decode(message.text, final=True)
        self._texts[message.candidate].append(text)
        reason = common_pb2.FinishReason.Name(message.reason)
        self.finishes[message.candidate] = Finish(
            reason=reason.removeprefix("FINISH_REASON_").lower(),
            usage=Usage(
                message.usage.prompt_tokens,
                message.usage.cached_tokens,
                message.usage.completion_tokens,
            ),
            timings=Timings(
                message.timings.queue_seconds,
                message.timings.prefill_seconds,
                message.timings.decode_seconds,
                message.timings.first_token_seconds,
            ),
        )
        return Piece(text, (), message.candidate) if text else None


class AnswerView:
    """What can be asked of an answer at any time; complete once it has been read to its end."""

    _state: AnswerState

    @property
    def text(self) -> str:
        """The text so far of the first candidate, in whole characters."""
        return self._state.text(0)

    def text_of(self, candidate: int) -> str:
        """The text so far of one candidate."""
        return self._state.text(candidate)

    @property
    def seed(self) -> int | None:
        """The seed that the first candidate is drawn with; None before the first piece."""
        return self._state.seed

    @property
    def last_sequence(self) -> int:
        """Number of the last event that was read: what `resume_session` goes on after."""
        return self._state.last_sequence

    @property
    def resumes(self) -> int:
        """How often the stream broke off and was taken up again so far."""
        return self._state.resumes

    @property
    def model_fingerprint(self) -> str:
        """SHA-256 over configuration and weights; empty before the first piece."""
        return self._state.model_fingerprint

    @property
    def finish(self) -> Finish | None:
        """How the first candidate ended; None while it has not."""
        return self._state.finishes.get(0)

    def finish_of(self, candidate: int) -> Finish | None:
        """How one candidate ended; None while it has not."""
        return self._state.finishes.get(candidate)


def _token(token: common_pb2.Token) -> Token:
    return Token(
        id=token.id,
        text=token.text,
        logprob=token.logprob if token.HasField("logprob") else None,
        top_logprobs=tuple(Logprob(t.token, t.text, t.logprob) for t in token.top_logprobs),
    )
