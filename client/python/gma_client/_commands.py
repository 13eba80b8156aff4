"""Commands of a session and their events, over as many streams as it takes: for both clients."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from gma_client import _convert
from gma_client._answer import SequenceCheck
from gma_client._proto import common_pb2, generation_pb2
from gma_client._resume import Retries, broke_off, request_key
from gma_client.errors import GmaError, error_of_number, make_error
from gma_client.types import Interjection

OPEN_ID = 1  # request id of `open`

_CANCEL = generation_pb2.SessionRequest(cancel=generation_pb2.SessionCancel())
_CREDIT = 256  # tokens on the way to a session's reader that was not asked for


@dataclass
class Outcome:
    """What an event means to the one who waits."""

    is_mine: bool = False
    send: list[generation_pb2.SessionRequest] = field(default_factory=list)
    # The stream is another one: `resend` is what it needs. A server that recovered may be behind
    # what came from it before; then it first has to run the last turn again, to this number.
    is_reopened: bool = False
    catch_up: int | None = None


class Commands:
    """What has no (whole) answer yet, and what it takes to go on with it on another stream.

    Commands that begin a turn have a key, so that one that is sent again is the same turn; the
    events of an answer go on behind the last one that came.
    """

    def __init__(self, open_: generation_pb2.SessionOpen, resume_for: float) -> None:
        open_.initial_credit = open_.initial_credit or _CREDIT
        self.open = open_
        self.retries = Retries(resume_for)
        self.resumes = 0
        self._resume = resume_for > 0
        self._credit = open_.initial_credit
        self._owed = 0  # tokens that came and were not granted again
        self._check = SequenceCheck()
        self._last_id = OPEN_ID
        self._is_open = False
        self._pending: generation_pb2.SessionRequest | None = None
        self._begun = False  # an event that answers `_pending` came
        self._cancelled = False
        self._interjections: dict[int, tuple[generation_pb2.SessionRequest, Interjection]] = {}
        # The stream broke off: whether they entered is seen in the rest of the answer.
        self._unclear = False
        self._is_ready = True  # commands can be sent now; else `resend` has them

    def begin(self, request: generation_pb2.SessionRequest) -> generation_pb2.SessionRequest:
        """A command whose events will be waited for; the one before has all of its."""
        self._pending = self._number(request)
        self._begun = self._cancelled = False
        return request

    def interject(
        self, source: common_pb2.Input
    ) -> tuple[Interjection, list[generation_pb2.SessionRequest]]:
        """Input that enters the answer that runs, and what is to be sent."""
        request = generation_pb2.SessionRequest(append=generation_pb2.SessionAppend(input=source))
        interjection = Interjection()
        self._interjections[self._number(request).request_id] = (request, interjection)
        return interjection, [request] if self._is_ready else []

    def cancel(self) -> list[generation_pb2.SessionRequest]:
        """Ends the answer that runs; returns what is to be sent."""
        self._cancelled = True
        return [_CANCEL] if self._is_ready else []

    def resend(self) -> list[generation_pb2.SessionRequest]:
        """What has no answer yet, for a stream that was opened again."""
        self._is_ready = True
        pending = self._pending
        interjected = [request for request, _ in self._interjections.values()]
        if pending is None:
            return interjected
        if not pending.HasField("generate"):
            return [pending]
        self._unclear = bool(interjected)
        if self._begun:
            pending.generate.after = self._check.last
        return [pending, *([_CANCEL] if self._cancelled else [])]

    def outstanding(self) -> int | None:
        """Request id of an interjection of which nothing was heard."""
        return next(iter(self._interjections), None)

    def grant(self, at_end: bool) -> generation_pb2.SessionRequest | None:
        """Grants what was read again, while half of it still flows and when the answer is over."""
        if not self._owed or not (at_end or 2 * self._owed >= self._credit):
            return None
        credit = generation_pb2.SessionCredit(tokens=self._owed)
        self._owed = 0
        return generation_pb2.SessionRequest(credit=credit)

    def opening(self) -> generation_pb2.SessionRequest:
        """The first message of a stream."""
        self.open.initial_credit = max(1, self._credit - self._owed)
        return generation_pb2.SessionRequest(request_id=OPEN_ID, open=self.open)

    def reopen(self, error: GmaError) -> float:
        """Seconds after which the stream is to be opened again, having ended with `error`.

        Raises:
            GmaError: `error`, when it is not: without `keep`, the session has ended with it.
        """
        lives = self.open.keep or not self._is_open
        if not (self._resume and lives and broke_off(error)):
            raise error
        pause = self.retries.pause(error)
        self.resumes += 1
        self._is_ready = False
        return pause

    def accept(self, event: generation_pb2.SessionResponse, waiting_for: int) -> Outcome:
        """Takes the next event.

        Raises:
            GmaError: the answer to command `waiting_for`; or DataLossError, of the stream.
        """
        self._check.accept(event)
        kind = event.WhichOneof("event")
        if event.sequence:
            self.retries.progress()
        if kind == "heartbeat":
            return Outcome()
        if kind == "tokens":
            self._owed += len(event.tokens.tokens)
        if kind == "opened":
            return self._opened(event.opened)
        outcome = Outcome(is_mine=event.request_id == waiting_for)
        of_pending = self._pending is not None and event.request_id == self._pending.request_id
        if event.request_id in self._interjections:
            self._settle(event.request_id, event)
            # What a stop string held back comes with it, so the answer's reader wants it.
            outcome.is_mine |= kind == "appended" and self._generates(waiting_for)
            return outcome
        if of_pending:
            self._begun = True
            if kind == "appended" and self._generates(waiting_for):
                self._settle_unclear(event)
            elif kind not in ("started", "tokens"):
                self._pending = None
                if self._unclear:  # what has not entered by now never came to the server
                    outcome.send = [request for request, _ in self._interjections.values()]
                    self._unclear = False
        if outcome.is_mine and kind == "error":
            raise error_of_number(event.error.code, event.error.message)
        return outcome

    def _opened(self, opened: generation_pb2.SessionOpened) -> Outcome:
        if not self._is_open:
            self._is_open = True
            self.open.session_id = opened.session_id
            return Outcome(is_mine=True)
        outcome = Outcome(is_reopened=True)
        if self._begun and self._pending is not None and self._pending.HasField("generate"):
            return outcome  # the server looks by itself whether it has all of it
        last = self._check.last
        if opened.last_sequence < last and not opened.turn_active:
            raise make_error(
                grpc.StatusCode.DATA_LOSS,
                "the session's state is older than what came from it: its last event is "
                f"{opened.last_sequence}, not {last}",
            )
        if opened.last_sequence < last:
            outcome.catch_up = last
        return outcome

    def _generates(self, request_id: int) -> bool:
        pending = self._pending
        return (
            pending is not None
            and pending.request_id == request_id
            and pending.HasField("generate")
        )

    def _settle_unclear(self, event: generation_pb2.SessionResponse) -> None:
        if self._unclear and (request_id := self.outstanding()) is not None:
            self._settle(request_id, event)

    def _settle(self, request_id: int, event: generation_pb2.SessionResponse) -> None:
        _, interjection = self._interjections.pop(request_id)
        if event.HasField("error"):
            interjection.error = error_of_number(event.error.code, event.error.message)
        else:
            interjection.context_tokens = event.appended.context_tokens
        self._unclear = self._unclear and bool(self._interjections)

    def _number(self, request: generation_pb2.SessionRequest) -> generation_pb2.SessionRequest:
        self._last_id += 1
        request.request_id = self._last_id
        if self._resume and self.open.keep:
            _convert.set_request_key(request, request_key())
        return request
