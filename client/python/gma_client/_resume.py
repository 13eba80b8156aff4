"""What it takes to go on with a call that broke off: shared by both clients."""

from __future__ import annotations

import os
import random
import time

import grpc

from gma_client._answer import SequenceCheck
from gma_client._proto import (
    generation_pb2,
    generation_pb2_grpc,
    models_pb2_grpc,
    sessions_pb2_grpc,
)
from gma_client.errors import GmaError, make_error

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


def broke_off(error: GmaError) -> bool:
    """The server did not refuse the call: it, or something between, is gone or restarts.

    Behind a proxy a server that dies shows as UNKNOWN, INTERNAL or CANCELLED with a message that
    names RST_STREAM, without one as UNAVAILABLE.
    """
    # INTERNAL is also the server's, for logits that are not finite; CANCELLED also this side's.
    if error.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        return "RST_STREAM" in error.message
    if error.code is grpc.StatusCode.ABORTED:  # also for what another client does
        return "moved to another server" in error.message
    return error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)


def request_key() -> bytes:
    """A key that no other call has."""
    return os.urandom(16)


class Retries:
    """When to try again: after a random time that doubles from try to try.

    `total`: seconds from the first failure after `progress` until no more tries are made.
    """

    def __init__(self, total: float) -> None:
        self._total = total
        self._until: float | None = None
        self._pause = _FIRST_PAUSE

    def pause(self, why: GmaError) -> float:
        """Seconds to wait before the next try.

        Raises:
            GmaError: `why`, when there is no time left.
        """
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._total
            self._pause = _FIRST_PAUSE
        # Many clients lose one server at once, and should not come to the next one all together.
        pause = max(self._pause * random.uniform(0.5, 1.0), why.retry_after or 0.0)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if now + pause > self._until:
            raise why
        return pause

    def progress(self) -> None:
        """Something came that was not there before."""
        self._until = None


class Target:
    """The stubs of one server."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.channel = channel
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.sessions = sessions_pb2_grpc.SessionsStub(channel)
        self.models = models_pb2_grpc.ModelsStub(channel)


class Targets:
    """The servers that a client may use: replicas of one another."""

    def __init__(self, targets: list[Target]) -> None:
        self.all = targets
        self.current = targets[0]

    def leave(self, target: Target) -> None:
        """A call to `target` broke off: later ones go to the next, unless they do already."""
        if target is self.current:
            self.current = self.all[(self.all.index(target) + 1) % len(self.all)]


StreamRequest = generation_pb2.GenerateRequest | generation_pb2.ResumeRequest


class Progress:
    """One answer over as many calls as it takes.

    On a session they are the same turn (request_key, after). A private answer is drawn again with
    its seed, which gives the same tokens as long as the model is the same; what was there before is
    compared and left out.
    """

    def __init__(self, request: StreamRequest, resume: bool) -> None:
        self.request = request
        self.resumes = 0
        self.is_resume = isinstance(request, generation_pb2.ResumeRequest)
        self._private = not self.is_resume and not request.session_id
        self.resumable = resume and (self.is_resume or not self._private or request.n <= 1)
        if resume and not self.is_resume and not self._private and not request.request_key:
            request.request_key = request_key()
        self._started: generation_pb2.Started | None = None
        self._last = 0  # number of the last event that was let through
        self._ids: list[int] = []  # tokens of a private answer; the first has number 2
        self._check = self._new_check()

    def again(self) -> None:
        """The call is made again."""
        self.resumes += 1
        if self._last and not self._private:
            self.request.after = self._last
        elif self._started is not None:
            self.request.sampling.seed = self._started.seed
        self._check = self._new_check()

    def may_retry(self, error: GmaError) -> bool:
        """Whether a call that ended with `error` is to be made again."""
        # Nobody is refused for good because a queue is full while the answer is under way.
        full = self.resumes > 0 and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return self.resumable and (broke_off(error) or full)

    def accept(self, event: generation_pb2.GenerateResponse) -> bool:
        """Takes an event, and out of it what is known already. False: nothing is left.

        Raises:
            DataLossError: events are missing, or a private answer comes out otherwise than before.
        """
        self._check.accept(event)
        if event.sequence == 0:
            return True
        if self._private and self.resumable and event.sequence <= self._last:
            return self._accept_again(event)
        kind = event.WhichOneof("event")
        if kind == "started":
            self._started = event.started
        if kind == "tokens" and self._private and self.resumable:
            self._ids.extend(token.id for token in event.tokens.tokens)
        self._last = event.sequence + (len(event.tokens.tokens) - 1 if kind == "tokens" else 0)
        return True

    def _accept_again(self, event: generation_pb2.GenerateResponse) -> bool:
        kind = event.WhichOneof("event")
        if kind == "started" and self._started is not None:
            if event.started.model_fingerprint == self._started.model_fingerprint:
                return False
            raise make_error(
                grpc.StatusCode.DATA_LOSS,
                "the answer broke off, and now the server has another model: "
                f"{event.started.model_fingerprint}, not {self._started.model_fingerprint}",
            )
        known = self._last + 1 - event.sequence
        ids = [token.id for token in event.tokens.tokens[:known]]
        first = event.sequence - 2
        if not ids or first < 0 or ids != self._ids[first : first + len(ids)]:
            raise make_error(
                grpc.StatusCode.DATA_LOSS,
                "the answer broke off and came out otherwise the second time: events from "
                f"{event.sequence} on",
            )
        if len(event.tokens.tokens) == len(ids):
            return False
        del event.tokens.tokens[: len(ids)]
        event.sequence = self._last + 1
        self._ids.extend(token.id for token in event.tokens.tokens)
        self._last += len(event.tokens.tokens)
        return True

    def _new_check(self) -> SequenceCheck:
        has_after = self.is_resume or self.request.HasField("after")
        return SequenceCheck(self.request.after if has_after else 0)
