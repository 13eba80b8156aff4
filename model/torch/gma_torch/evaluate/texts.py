"""What is scored: windows of a text, of a chat file, or one long document.

A window is a row of tokens and a mask of the tokens whose loss counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from gma_torch.convert.data import ChatEncoder, Message, dolly_turn, read_jsonl, read_text


@dataclass
class Window:
    """tokens [T]; counted [T - 1]: whether the loss of token 1 + i counts; bytes [T - 1]."""

    tokens: Tensor
    counted: Tensor
    bytes: Tensor


def _window(tokenizer: Tokenizer, ids: list[int], counted: list[bool] | None = None) -> Window:
    # In a byte-level vocabulary every character of a token's name is one byte; control tokens
    # (added to the tokenizer) stand for no bytes of the text.
    special = set(tokenizer.get_added_tokens_decoder())
    sizes = [0 if i in special else len(tokenizer.id_to_token(i)) for i in ids]
    counted = [True] * len(ids) if counted is None else counted
    return Window(torch.tensor(ids), torch.tensor(counted[1:]), torch.tensor(sizes[1:]))


def _ids(tokenizer: Tokenizer, path: Path, text: str) -> list[int]:
    """The tokens of a text; one alone has no loss."""
    ids = ChatEncoder(tokenizer).text(text)
    if len(ids) < 2:
        raise ValueError(f"{path}: the text has {len(ids)} tokens, must have at least 2")
    return ids


def text_windows(tokenizer: Tokenizer, path: Path, count: int, length: int) -> list[Window]:
    """`count` windows of `length` tokens, evenly spaced over a text file (fewer if it is short)."""
    ids = _ids(tokenizer, path, read_text(path))
    count = max(1, min(count, len(ids) // length))
    step = (len(ids) - length) // max(1, count - 1) if count > 1 else 0
    return [_window(tokenizer, ids[n * step : n * step + length]) for n in range(count)]


def long_window(tokenizer: Tokenizer, path: Path, length: int) -> list[Window]:
    """The first `length` tokens of a text as one session."""
    ids = _ids(tokenizer, path, read_text(path)[: 12 * length])
    return [_window(tokenizer, ids[:length])]


def document_tokens(tokenizer: Tokenizer, path: Path, first: int, length: int) -> list[int]:
    """`length` tokens of a file of documents: document `first`, then those after it, in a circle.

    ValueError if all of them together are shorter.
    """
    documents = [d for d in read_text(path).split("<|endoftext|>\n") if d.strip()]
    encoder = ChatEncoder(tokenizer)
    ids: list[int] = []
    for n in range(len(documents)):
        if len(ids) >= length:
            break
        ids += encoder.text(documents[(first + n) % len(documents)])
    if len(ids) < length:
        raise ValueError(f"{path}: has {len(ids)} tokens, {length} wanted")
    return ids[:length]


def chat_windows(
    tokenizer: Tokenizer, path: Path, count: int, length: int, *, first: int, system: str
) -> list[Window]:
    """Conversations of questions and answers; only what the assistant says counts.

    Args:
        path: JSON lines with instruction, context and response (the form of Dolly).
        first: records before this one are left out (they may have been trained on).
        system: text of the system message that opens each conversation.
    """
    encoder = ChatEncoder(tokenizer)
    records = read_jsonl(path)[first:]
    windows, at = [], 0
    while len(windows) < count:
        ids, mine = encoder.conversation([Message("system", system)])
        while len(ids) < length:
            if at == len(records):
                raise ValueError(
                    f"{path}: {len(records)} records are too few for {count} windows of "
                    f"{length} tokens"
                )
            try:
                turn = dolly_turn(records[at])
            except (KeyError, TypeError):
                raise ValueError(
                    f"{path}: record {first + at} must be an object with instruction, context "
                    "and response"
                ) from None
            more, wrote = encoder.conversation(turn)
            ids, mine, at = ids + more, mine + wrote, at + 1
        windows.append(_window(tokenizer, ids[:length], mine[:length]))
    return windows
