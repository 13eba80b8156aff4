"""Commands of a session and their events, over as many streams as it takes: for both clients."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from gma_client._answer import SequenceCheck
from gma_client._proto import common_pb2, generation_pb2
from gma_client._resume import Retries, broke_off, request_key
from gma_client.errors import GmaError, error_of_number
from gma_client.types import Interjection

OPEN_ID = 1  # request id of `open`

_CANCEL = generation_pb2.SessionRequest(cancel=generation_pb2.SessionCancel())
_CREDIT = 256  # tokens on the way to a session's reader that was not asked for


@dataclass
class Outcome:
    """What an event means to the one who waits, who first sends `send`."""

    is_mine: bool = False
    send: list[generation_pb2.SessionRequest] = field(default_factory=list)
    error: GmaError | None = None  # the answer to the command that is waited for


@dataclass
class _Command:
    """A command that has no (whole) answer yet."""

    request: generation_pb2.SessionRequest
    interjection: Interjection | None = None  # of input for an answer that runs
    is_sent: bool = False  # on the present stream
    again: bool = False  # on an earlier one: it may have been done there
    begun: bool = False  # an event that answers it came
    cancelled: bool = False
    # Input that was on its way into an answer when the stream broke off: whether it entered is seen
    # in the rest of the answer.
    unclear: bool = False

    @property
    def generates(self) -> bool:
        return self.request.HasField("generate")

    @property
    def turn(self) -> generation_pb2.SessionGenerate | generation_pb2.SessionAppend | None:
        """What has a key and a number."""
        kind = self.request.WhichOneof("command")
        return getattr(self.request, kind) if kind in ("generate", "append") else None


class Commands:
    """What has no (whole) answer yet, and what it takes to go on with it on another stream.

    Commands that begin a turn have a key, so that one that is sent again is the same turn, and say
    which event of the session they follow (`after`); the events of an answer go on behind the last
    one that came. What would be a turn behind input that has no answer yet waits for that here, as
    the server knows the key of the last turn alone. Input that crosses the end of its answer is
    refused, for it does not know of that end, and sent again behind it.
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
        # The last event seen is the session's, unless what is pending has made more.
        self._knows_last = False
        self._last_id = OPEN_ID
        self._is_open = False
        self._pending: dict[int, _Command] = {}  # by request id, in their order
        self._is_ready = True  # commands can be sent now; else they are once the stream is open

    @property
    def last_sequence(self) -> int | None:
        """Number of the session's last event; None where it cannot be known from here."""
        return self._check.last if self._knows_last and not self._pending else None

    def begin(
        self, request: generation_pb2.SessionRequest
    ) -> tuple[int, list[generation_pb2.SessionRequest]]:
        """A command whose events will be waited for; its request id, and what is to be sent.

        The one before has all of its events, or failed.
        """
        for request_id, command in list(self._pending.items()):
            if command.interjection is None:
                self._remove(request_id)
        return self._add(_Command(request)), self._due()

    def interject(
        self, source: common_pb2.Input
    ) -> tuple[Interjection, list[generation_pb2.SessionRequest]]:
        """Input that enters the answer that runs, and what is to be sent."""
        request = generation_pb2.SessionRequest(append=generation_pb2.SessionAppend(input=source))
        interjection = Interjection()
        self._add(_Command(request, interjection))
        return interjection, self._due()

    def cancel(self) -> list[generation_pb2.SessionRequest]:
        """Ends the answer that runs; returns what is to be sent."""
        for command in self._pending.values():
            command.cancelled = command.generates
        return [_CANCEL] if self._is_ready else []

    def outstanding(self) -> int | None:
        """Request id of an interjection of which nothing was heard."""
        return next((id for id, one in self._pending.items() if one.interjection), None)

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
        in_turn = False
        for command in self._pending.values():
            command.again |= command.is_sent
            command.is_sent = False
            command.unclear = in_turn and command.again
            in_turn |= command.generates
        return pause

    def accept(self, event: generation_pb2.SessionResponse, waiting_for: int) -> Outcome:
        """Takes the next event.

        Raises:
            DataLossError: the stream has lost events.
        """
        self._check.accept(event)
        kind = event.WhichOneof("event")
        if event.sequence:
            self.retries.progress()
            self._knows_last = True
        if kind == "heartbeat":
            return Outcome()
        if kind == "tokens":
            self._owed += len(event.tokens.tokens)
        if kind == "opened":
            return self._opened(event.opened)
        outcome = Outcome(is_mine=event.request_id == waiting_for)
        error = error_of_number(event.error.code, event.error.message) if kind == "error" else None
        command = self._pending.get(event.request_id)
        if command is not None:
            if error is not None and self._is_undone(command, error):
                return Outcome(send=self._due())
            # What a stop string held back comes with it, so the answer's reader wants it.
            outcome.is_mine |= kind == "appended" and self._generates(waiting_for)
            self._settle(event, command)
            outcome.send = self._due()
        if outcome.is_mine and (command is None or command.interjection is None):
            outcome.error = error
        return outcome

    def _opened(self, opened: generation_pb2.SessionOpened) -> Outcome:
        is_first, self._is_open, self._is_ready = not self._is_open, True, True
        if is_first:
            self.open.session_id = opened.session_id
            if not opened.turn_active:
                self._check = SequenceCheck(opened.last_sequence)
                self._knows_last = True
        return Outcome(is_mine=is_first, send=self._due())

    def _due(self) -> list[generation_pb2.SessionRequest]:
        """The commands whose turn it is to be sent."""
        due: list[generation_pb2.SessionRequest] = []
        in_turn = False
        for command in self._pending.values() if self._is_ready else ():
            if command.unclear:
                break
            if not command.is_sent:
                command.is_sent = True
                self._set_number(command)
                due += [command.request, *([_CANCEL] if command.cancelled else [])]
            in_turn |= command.generates
            if not in_turn:
                break
        return due

    def _set_number(self, command: _Command) -> None:
        if command.turn is None or not self._resumes:
            return
        command.turn.ClearField("after")
        if self._knows_last:
            command.turn.after = self._check.last

    def _is_undone(self, command: _Command, error: GmaError) -> bool:
        """Whether only the number of a command was wrong, which is then sent again.

        The answer that it was meant to enter has ended meanwhile, or somebody else used the
        session.
        """
        tried = command.again or command.begun or command.turn is None
        if tried or not command.turn.HasField("after"):
            return False
        if error.code is not grpc.StatusCode.ABORTED or broke_off(error):
            return False
        if command.turn.after == self._check.last:
            self._knows_last = False
        command.is_sent = False
        return True

    def _settle(self, event: generation_pb2.SessionResponse, command: _Command) -> None:
        kind = event.WhichOneof("event")
        if kind == "appended" and command.generates:
            # It had entered before the stream broke off.
            request_id = next((id for id, one in self._pending.items() if one.unclear), None)
            if request_id is None:
                return
            command = self._pending[request_id]
        else:
            request_id = event.request_id
            command.begun = True
            if kind in ("started", "tokens"):
                return
        if command.interjection is not None and kind == "error":
            command.interjection.error = error_of_number(event.error.code, event.error.message)
        elif command.interjection is not None:
            command.interjection.context_tokens = event.appended.context_tokens
        self._remove(request_id)

    def _remove(self, request_id: int) -> None:
        if self._pending.pop(request_id).generates:
            # What has not entered by now never came to the server.
            for command in self._pending.values():
                command.unclear = False

    def _generates(self, request_id: int) -> bool:
        command = self._pending.get(request_id)
        return command is not None and command.generates

    @property
    def _resumes(self) -> bool:
        return self._resume and self.open.keep

    def _add(self, command: _Command) -> int:
        self._last_id += 1
        command.request.request_id = self._last_id
        if command.turn is not None and self._resumes:
            command.turn.request_key = request_key()
        self._pending[self._last_id] = command
        return self._last_id
