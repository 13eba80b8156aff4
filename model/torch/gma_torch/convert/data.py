"""Text for the conversion: chat, books and Wikipedia in equal parts, as token sequences.

Sequence `index` of a stream is a pure function of (seed, index), so that a run resumes exactly.
Chat is written in the base's chat form: a system message and several turns, from Dolly (records
below the held-out tail) and OASST1 train. Message texts are encoded as plain text; only the role
markers are control tokens.
"""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

# Dolly records from here on are held out for evaluation (15,015 in all).
DOLLY_HELD_OUT = 14_000

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


@dataclass
class Message:
    """One turn of a conversation; role is system, user or assistant."""

    role: str
    text: str


def read_text(path: Path) -> str:
    """Reads a text file, .xz or plain; ValueError names the file."""
    try:
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8") as stream:
                return stream.read()
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_jsonl(path: Path) -> list[dict]:
    """Reads a file of JSON lines, .xz or plain."""
    records = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            records += [json.loads(line)] if line else []
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from None
    return records


class ChatEncoder:
    """Writes conversations as token ids; a text never becomes a control token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._special = tokenizer
        self._plain = Tokenizer.from_str(_without_special(tokenizer.to_str()))

    def text(self, text: str) -> list[int]:
        """Plain text to ids."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def marker(self, text: str) -> list[int]:
        """A role marker, which may hold control tokens, to ids."""
        return self._special.encode(text, add_special_tokens=False).ids

    def conversation(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether the assistant wrote it (its <|im_end|> included)."""
        ids: list[int] = []
        mine: list[bool] = []
        for message in messages:
            head = self.marker(f"{IM_START}{message.role}\n")
            body = self.text(message.text) + self.marker(IM_END)
            tail = self.marker("\n")
            ids += head + body + tail
            wrote = message.role == "assistant"
            mine += [False] * len(head) + [wrote] * len(body) + [False] * len(tail)
        return ids, mine


def _without_special(tokenizer_json: str) -> str:
    content = json.loads(tokenizer_json)
    content["added_tokens"] = []
    return json.dumps(content)


def dolly_turn(record: dict) -> list[Message]:
    """A Dolly record as a question and its answer."""
    question = record["instruction"]
    if record.get("context"):
        question += "\n\n" + record["context"]
    return [Message("user", question), Message("assistant", record["response"])]


Source = Callable[[random.Random, int], list[int]]


def chat_source(root: Path, encoder: ChatEncoder, system: str) -> Source:
    """Conversations of one to six turns; half of them Dolly, half OASST1."""
    dolly = read_jsonl(root / "dolly-15k/dolly-15k.jsonl.xz")[:DOLLY_HELD_OUT]
    oasst = [r["text"] for r in read_jsonl(root / "oasst1/en-train-messages.jsonl.xz")]

    def conversation(rng: random.Random) -> list[Message]:
        messages = [Message("system", system)] if rng.random() < 0.9 else []
        turns = rng.randint(1, 6)
        if rng.random() < 0.5:
            for record in rng.sample(dolly, turns):
                messages += dolly_turn(record)
        else:  # consecutive messages nearly always answer each other
            begin = rng.randrange(len(oasst) - 2 * turns)
            for n, text in enumerate(oasst[begin : begin + 2 * turns]):
                messages.append(Message("assistant" if n % 2 else "user", text))
        return messages

    def sample(rng: random.Random, length: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < length:
            ids += encoder.conversation(conversation(rng))[0]
        return ids[:length]

    return sample


def text_source(paths: list[Path], encoder: ChatEncoder, *, whole_articles: bool) -> Source:
    """Random passages: of one book each, or articles one after the other."""
    documents = [d for p in paths for d in read_text(p).split("<|endoftext|>\n") if len(d) > 500]
    sizes = [len(d) for d in documents]
    end = encoder.marker("<|endoftext|>")

    def sample(rng: random.Random, length: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < length:
            document = rng.choices(documents, sizes)[0]
            begin = 0 if whole_articles else rng.randrange(max(1, len(document) - 8 * length))
            ids += encoder.text(document[begin : begin + 8 * (length - len(ids))]) + end
        return ids[:length]

    return sample


class Mixture:
    """The three sources in equal parts, one after the other."""

    NAMES = ("chat", "books", "wikipedia")

    def __init__(self, root: Path, tokenizer: Tokenizer, system: str, seed: int) -> None:
        encoder = ChatEncoder(tokenizer)
        self._seed = seed
        self._sources = (
            chat_source(root, encoder, system),
            text_source([root / "books/train-0.txt.xz", root / "books/train-1.txt.xz"], encoder,
                        whole_articles=False),
            text_source([root / "wikipedia-en/train.txt.xz"], encoder, whole_articles=True),
        )  # fmt: skip

    def sequence(self, index: int, length: int) -> list[int]:
        """Sequence number `index`, `length` tokens."""
        rng = random.Random(f"{self._seed}:{index}")
        return self._sources[index % len(self._sources)](rng, length)
