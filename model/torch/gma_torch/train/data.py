"""Text files to token arrays, and the order in which training sees them."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from gma_torch.train.errors import TrainError

_PIECE = 200_000  # characters that are encoded at once


def read_text(path: str | Path) -> str:
    """A UTF-8 text file, plain or compressed with xz."""
    path = Path(path)
    try:
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
                return file.read()
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise TrainError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise TrainError(f"{path}: {error}") from None


def pieces(text: str) -> Iterator[str]:
    """Cuts a text where a line ends and the next begins with no white space.

    No token of the byte-level pattern reaches over such a place, so the tokens of the pieces are
    the tokens of the text.
    """
    start = 0
    while start < len(text):
        end = start + _PIECE
        while True:
            end = text.find("\n", end) + 1
            if end == 0 or end >= len(text):
                end = len(text)
                break
            if not text[end].isspace():
                break
        yield text[start:end]
        start = end


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Token ids [n] uint32 of a text."""
    parts = [
        np.asarray(tokenizer.encode(piece, add_special_tokens=False).ids, dtype=np.uint32)
        for piece in pieces(text)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint32)


@dataclass(frozen=True)
class Corpus:
    """Training and validation tokens [n] uint32, and the bytes that the latter stand for."""

    train: np.ndarray
    valid: np.ndarray
    valid_bytes: int

    def digest(self) -> str:
        """SHA-256 over all tokens: the same digest, the same training data."""
        sha = hashlib.sha256(self.train.tobytes())
        sha.update(self.valid.tobytes())
        return sha.hexdigest()


def split_text(text: str, valid_share: float) -> tuple[str, str]:
    """The text and its last `valid_share`, cut at the end of a line."""
    cut = text.rfind("\n", 0, int(len(text) * (1.0 - valid_share))) + 1
    return text[:cut], text[cut:]


def make_corpus(tokenizer: Tokenizer, train_text: str, valid_text: str, context: int) -> Corpus:
    """Encodes both texts; each must fill at least one sequence of `context` tokens."""
    train, valid = encode(tokenizer, train_text), encode(tokenizer, valid_text)
    for name, tokens in (("training", train), ("validation", valid)):
        if len(tokens) <= context:
            raise TrainError(
                f"the {name} text has {len(tokens)} tokens, must have more than --context {context}"
            )
    return Corpus(train, valid, len(valid_text.encode("utf-8")))


class BatchOrder:
    """Which sequences a step trains on: a pure function of seed and step.

    Each epoch cuts the tokens into blocks of `context` from a new random offset and visits them
    in a new random order. So the step number is the whole position in the data, and a run that
    resumes sees what it would have seen.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch: int, seed: int) -> None:
        self._tokens, self._context, self._batch, self._seed = tokens, context, batch, seed
        self._blocks = max(1, (len(tokens) - context - 1) // context)  # whatever the offset
        self._epoch, self._starts = -1, np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every block was seen once."""
        return self._blocks / self._batch

    def batch(self, step: int) -> Tensor:
        """Tokens [batch, context + 1] int64 of a step: inputs and, one further, targets."""
        rows = []
        for index in range(step * self._batch, (step + 1) * self._batch):
            epoch, block = divmod(index, self._blocks)
            start = self._epoch_starts(epoch)[block]
            rows.append(self._tokens[start : start + self._context + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _epoch_starts(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            last = len(self._tokens) - self._context * self._blocks - 1
            offset = int(rng.integers(0, min(last, self._context - 1) + 1))
            self._starts = offset + self._context * rng.permutation(self._blocks)
            self._epoch = epoch
        return self._starts


def valid_batches(tokens: np.ndarray, context: int, batch: int, limit: int) -> Iterator[Tensor]:
    """Non-overlapping sequences [b, context + 1] of the first `limit` tokens, in order."""
    blocks = min(len(tokens) - 1, max(limit, context)) // context
    for first in range(0, blocks, batch):
        rows = [
            tokens[block * context : block * context + context + 1]
            for block in range(first, min(first + batch, blocks))
        ]
        yield torch.from_numpy(np.stack(rows).astype(np.int64))
