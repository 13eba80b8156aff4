"""Errors of calls: the server's code and message, and when to try again."""

from __future__ import annotations

import grpc


class GmaError(Exception):
    """A call that failed.

    Attributes:
        code: the gRPC status code, e.g. `grpc.StatusCode.INVALID_ARGUMENT`.
        message: what the server says; it names field, value and limit.
        retry_after: seconds after which the server asks to try again, or None.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after


class InvalidArgumentError(GmaError):
    """A field is out of its range, or fields contradict each other."""


class NotFoundError(GmaError):
    """No such session or model; a session may have expired."""


class FailedPreconditionError(GmaError):
    """The session is busy with another turn, or an exported one does not fit this server."""


class PermissionDeniedError(GmaError):
    """An exported session belongs to another owner."""


class OutOfRangeError(GmaError):
    """A position of a session that cannot be reached; the message names the oldest that can."""


class ResourceExhaustedError(GmaError):
    """The queue or the pool of sessions is full; see `retry_after`."""


class UnauthenticatedError(GmaError):
    """The API key is missing or wrong."""


class UnavailableError(GmaError):
    """The server is not there, drains, or broke a stream off."""


class DataLossError(GmaError):
    """The session's state, or a part of a stream, was lost."""


class CancelledError(GmaError):
    """The call was cancelled."""


class DeadlineExceededError(GmaError):
    """The call took longer than its timeout."""


_CLASSES: dict[grpc.StatusCode, type[GmaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
}
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def make_error(code: grpc.StatusCode, message: str, retry_after: float | None = None) -> GmaError:
    """The error of the class that belongs to `code`."""
    return _CLASSES.get(code, GmaError)(code, message, retry_after)


def cut_error() -> GmaError:
    """The error of a stream that ended before the answer did."""
    return make_error(grpc.StatusCode.UNAVAILABLE, "the stream ended before the answer did")


def error_of_number(number: int, message: str) -> GmaError:
    """The error of a google.rpc code given as a number."""
    return make_error(_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN), message)


def error_of_call(error: grpc.RpcError) -> GmaError:
    """The error that a call of gRPC, synchronous or not, ended with."""
    retry_after = None
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdigit():
            retry_after = int(value) / 1000
    return make_error(error.code(), error.details() or "", retry_after)
