"""Questions about what was said in turn 1 of a conversation, a few hundred tokens later.

Recall: one of twelve common names or cities. Copy: a name of invented words, which has to come back
letter by letter. The turns between are questions and answers of a held-out chat file (the form of
Dolly). An answer counts if it holds the word.
"""

from __future__ import annotations

import random

from gma_torch.convert.data import ChatEncoder, Message, dolly_turn
from gma_torch.gguf_base import DEFAULT_SYSTEM

_NAMES = ("Martin", "Clara", "Oliver", "Sofia", "Daniel", "Emma", "Henry", "Alice", "Peter",
          "Laura", "Thomas", "Maria")  # fmt: skip
_CITIES = ("Paris", "Berlin", "Tokyo", "Boston", "Madrid", "Chicago", "London", "Vienna", "Rome",
           "Dublin", "Lisbon", "Seattle")  # fmt: skip
_SYLLABLES = ("bar", "dem", "fol", "gri", "hov", "jas", "kel", "lum", "mor", "nex", "pir", "quo",
              "rav", "sil", "tur", "vex", "wam", "yol", "zen", "dra")  # fmt: skip

Prompt = tuple[list[int], str]


def _conversation(
    encoder: ChatEncoder, rng: random.Random, short: list[dict], opening: list[Message], gap: int,
    ask: str,
) -> list[int]:  # fmt: skip
    messages = [Message("system", DEFAULT_SYSTEM), *opening]
    while len(encoder.conversation(messages)[0]) < gap:
        messages += dolly_turn(rng.choice(short))
    ids = encoder.conversation([*messages, Message("user", ask)])[0]
    return ids + encoder.marker("<|im_start|>assistant\n")


def _short(records: list[dict]) -> list[dict]:
    return [r for r in records if len(r["response"]) < 600 and not r.get("context")]


def _gap(gaps: tuple[int, int], number: int, count: int) -> int:
    return gaps[0] + (gaps[1] - gaps[0]) * (37 * number % count) // max(1, count - 1)


def recall_prompts(
    encoder: ChatEncoder, records: list[dict], count: int, gaps: tuple[int, int]
) -> list[Prompt]:
    """`count` conversations (ids up to the answer) with the word asked for.

    Args:
        gaps: least tokens before the question, spread evenly from the first to the second, in an
            order that mixes long and short ones.
    """
    rng, short, out = random.Random(0), _short(records), []
    for n in range(count):
        name, city = _NAMES[n % len(_NAMES)], _CITIES[(5 * n + n // 12) % len(_CITIES)]
        opening = [
            Message("user", f"Hi! My name is {name} and I live in {city}."),
            Message("assistant", f"Hello {name}! Nice to meet you. How can I help you today?"),
        ]
        gap = _gap(gaps, n, count)
        ask = "What is my name?" if n % 2 == 0 else "Which city do I live in?"
        ids = _conversation(encoder, rng, short, opening, gap, ask)
        out.append((ids, name if n % 2 == 0 else city))
    return out


def copy_prompts(
    encoder: ChatEncoder, records: list[dict], count: int, gaps: tuple[int, int]
) -> list[Prompt]:
    """As `recall_prompts`, for an invented first and last name told, repeated and asked for."""
    rng, short, out = random.Random(1), _short(records), []
    for n in range(count):
        first, last = ("".join(rng.choices(_SYLLABLES, k=2)).capitalize() for _ in range(2))
        name = f"{first} {last}"
        opening = [
            Message("user", f"Hi! My name is {name}."),
            Message("assistant", f"Hello {name}! Nice to meet you. How can I help you today?"),
        ]
        gap = _gap(gaps, n, count)
        ids = _conversation(encoder, rng, short, opening, gap, "What is my full name?")
        out.append((ids, name))
    return out
