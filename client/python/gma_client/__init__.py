"""Client of GMA Server: tokens of Gaussian Mixture Attention language models, as they come.

from gma_client import Client

with Client("127.0.0.1:50051") as client:
    for piece in client.chat("What is the capital of France?"):
        print(piece, end="", flush=True)
"""

from gma_client.aio import AsyncClient
from gma_client.aio_session import AsyncAnswer, AsyncSession
from gma_client.client import Client
from gma_client.errors import (
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    GmaError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from gma_client.session import Answer, Session
from gma_client.types import (
    CheckpointInfo,
    Finish,
    Interjection,
    Logprob,
    Message,
    ModelInfo,
    Options,
    Piece,
    RequestOptions,
    SessionInfo,
    Timings,
    Token,
    Usage,
)

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "AsyncSession",
    "CancelledError",
    "CheckpointInfo",
    "Client",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "Finish",
    "GmaError",
    "Interjection",
    "InvalidArgumentError",
    "Logprob",
    "Message",
    "ModelInfo",
    "NotFoundError",
    "Options",
    "OutOfRangeError",
    "RequestOptions",
    "PermissionDeniedError",
    "Piece",
    "ResourceExhaustedError",
    "Session",
    "SessionInfo",
    "Timings",
    "Token",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
]
