"""Byte-level BPE tokenizers and the files of a model directory that go with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, MESSAGE_START, MESSAGE_END)  # ids 0, 1, 2
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
ROLES = ("system", "user", "assistant")


class TokenizerError(ValueError):
    """A tokenizer that cannot be read or made."""


def train_tokenizer(texts: Iterator[str], vocab_size: int, progress: bool = False) -> Tokenizer:
    """Learns merges from `texts`; every byte has a token, so any text can be encoded."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"vocab_size is {vocab_size}, must be at least {SMALLEST_VOCABULARY} (256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a `tokenizer.json`, or the one in a directory."""
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise TokenizerError(f"{file}: no such file")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{file}: {error}") from None


def special_ids(tokenizer: Tokenizer) -> tuple[int | None, list[int]]:
    """The id that starts a text, and those that end one; (None, []) for a foreign tokenizer."""
    start = tokenizer.token_to_id(END_OF_TEXT)
    ends = [tokenizer.token_to_id(token) for token in (MESSAGE_END, END_OF_TEXT)]
    return start, [token for token in ends if token is not None]


def chat_roles(default_system: str = "") -> dict[str, Any]:
    """The value of `gma_chat` in tokenizer_config.json: what stands around a message."""
    return {
        "default_system": default_system,
        "roles": {
            role: {"prefix": f"{MESSAGE_START}{role}\n", "suffix": f"{MESSAGE_END}\n"}
            for role in ROLES
        },
        "generation_prefix": f"{MESSAGE_START}assistant\n",
    }


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
    path = Path(path)
    tokenizer.save(str(path / "tokenizer.json"))
    start, ends = special_ids(tokenizer)
    tokens = {
        "bos_token": None if start is None else END_OF_TEXT,
        "eos_token": tokenizer.id_to_token(ends[0]) if ends else None,
        "pad_token": None if start is None else END_OF_TEXT,
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: token for name, token in tokens.items() if token is not None},
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    if all(tokenizer.token_to_id(token) is not None for token in (MESSAGE_START, MESSAGE_END)):
        config["gma_chat"] = chat_roles()
    generation: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
    if start is not None:
        generation |= {"bos_token_id": start, "pad_token_id": start}
    if ends:
        generation["eos_token_id"] = ends
    for name, content in (
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ):
        (path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
