"""Chats in which the user says things about themselves and asks for them much later.

What a converted model loses first is what was said long ago, and chats rarely ask for it: here
every sequence does. None of the words of gma_torch.evaluate.questions is among these, so that its
probes stay unseen.
"""

from __future__ import annotations

import random
from pathlib import Path

from gma_torch.convert.data import (
    DOLLY_HELD_OUT,
    ChatEncoder,
    Message,
    dolly_turn,
    read_jsonl,
)


def _words(text: str) -> list[str]:
    return text.split()


_NAMES = _words(
    """
    Adam Amelia Andrea Anna Anthony Arthur Ben Bella Bruno Carla Carlos Cora David Diana Edward
    Elena Eric Eva Felix Fiona Frank Gina Grace Hannah Hugo Ian Irene Isaac Ivy Jack Jane Jason
    Julia Karen Kevin Leo Linda Louis Lucy Marcus Megan Mia Nadia Nathan Nina Noah Nora Olga
    Oscar Patrick Paul Paula Quentin Rachel Robert Rosa Ruth Samuel Sarah Simon Stella Theo Tina
    Victor Wendy Xavier Yara Zoe
    """
)
_CITIES = _words(
    """
    Amsterdam Athens Atlanta Austin Baltimore Bangkok Barcelona Beijing Bern Bogota Brussels
    Budapest Cairo Cardiff Copenhagen Dallas Delhi Denver Detroit Edinburgh Florence Geneva
    Glasgow Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Kyoto Lagos Lima Liverpool
    Lyon Manchester Melbourne Memphis Miami Milan Montreal Moscow Munich Nairobi Naples Oslo
    Oxford Perth Phoenix Porto Prague Quito Riga Santiago Seoul Seville Sydney Toronto Tunis
    Turin Valencia Venice Warsaw Zurich
    """
)
_JOBS = _words(
    """
    baker carpenter dentist electrician farmer gardener journalist lawyer librarian mechanic
    musician nurse painter photographer pilot plumber programmer surgeon tailor teacher
    translator waiter writer
    """
)
_COLOURS = _words(
    """
    black blue brown green grey orange pink purple red silver turquoise white yellow
    """
)
_PETS = _words(
    """
    Bandit Biscuit Buddy Coco Daisy Ginger Lucky Max Milo Molly Pepper Rex Rocky Ruby Rusty
    Shadow Simba Smokey Tiger Toby
    """
)
_SYLLABLES = _words(
    """
    ack ber cal dor eph fin gul han ist jor kam lin mab nor ost pel qui ros sten tam ulm ver
    wick yan zor bel cor dun fal gar hol
    """
)


def _invented(rng: random.Random) -> str:
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize()
                    for _ in range(2))  # fmt: skip


# What is said, what is asked, what is answered; {} is the word.
_KINDS = {
    "name": (
        ["My name is {}.", "I'm {}.", "I am called {}.", "{} here.", "You can call me {}."],
        ["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?"],
        ["Your name is {}.", "You are {}."],
    ),
    "city": (
        ["I live in {}.", "I'm from {}.", "My home is in {}.", "I am writing from {}."],
        ["Which city do I live in?", "Where do I live?", "What city am I from?"],
        ["You live in {}.", "The city you live in is {}."],
    ),
    "job": (
        ["I work as a {}.", "I'm a {} by profession.", "My job is {}."],
        ["What is my job?", "What do I do for a living?"],
        ["You work as a {}.", "You are a {}."],
    ),
    "colour": (
        ["My favorite color is {}.", "I love the color {}."],
        ["What is my favorite color?", "Which color do I like best?"],
        ["Your favorite color is {}."],
    ),
    "pet": (
        ["My dog is called {}.", "I have a dog named {}."],
        ["What is the name of my dog?", "What is my dog called?"],
        ["Your dog is called {}.", "The name of your dog is {}."],
    ),
    "full name": (
        ["My full name is {}.", "My name is {}.", "I'm {}."],
        ["What is my full name?", "Please repeat my full name."],
        ["Your full name is {}."],
    ),
}


def _word(kind: str, rng: random.Random) -> str:
    if kind == "full name":
        return _invented(rng)
    lists = {"name": _NAMES, "city": _CITIES, "job": _JOBS, "colour": _COLOURS, "pet": _PETS}
    return rng.choice(lists[kind])


class FactChats:
    """Sequences of chat that end with questions about what the user said at their start."""

    def __init__(self, root: Path, encoder: ChatEncoder, system: str, seed: int) -> None:
        records = read_jsonl(root / "dolly-15k/dolly-15k.jsonl.xz")[:DOLLY_HELD_OUT]
        self._short = [r for r in records if len(r["response"]) < 600 and not r.get("context")]
        self._encoder, self._system, self._seed = encoder, system, seed

    def sequence(self, index: int, length: int) -> tuple[list[int], list[bool]]:
        """Sequence number `index`, and for each of its tokens whether it answers a question."""
        rng = random.Random(f"facts:{self._seed}:{index}")
        ids: list[int] = []
        answers: list[bool] = []
        while len(ids) < length:
            gap = rng.randint(length // 8, max(length // 8, length - 200))
            more = self._chat(rng, gap)
            ids, answers = ids + more[0], answers + more[1]
        return ids[:length], answers[:length]

    def _chat(self, rng: random.Random, gap: int) -> tuple[list[int], list[bool]]:
        """One chat whose questions begin after `gap` tokens."""
        first = rng.choice(["name", "full name"])
        kinds = [first, *rng.sample(["city", "job", "colour", "pet"], rng.randint(1, 3))]
        words = {kind: _word(kind, rng) for kind in kinds}
        told = " ".join(rng.choice(_KINDS[kind][0]).format(words[kind]) for kind in kinds)
        hello = rng.choice(["Hi! ", "Hello! ", "Hey, ", "Good morning. ", ""])
        reply = rng.choice([f"Hello {words[first]}! How can I help you today?",
                            "Nice to meet you. How can I help you?",
                            f"Nice to meet you, {words[first]}."])  # fmt: skip
        messages = [Message("system", self._system)] if rng.random() < 0.9 else []
        messages += [Message("user", hello + told), Message("assistant", reply)]
        ids = self._encoder.conversation(messages)[0]
        answers = [False] * len(ids)
        while len(ids) < gap:
            turn = self._encoder.conversation(dolly_turn(rng.choice(self._short)))[0]
            ids, answers = ids + turn, answers + [False] * len(turn)
        for kind in rng.sample(kinds, len(kinds)):
            _, asked, said = _KINDS[kind]
            turn = [Message("user", rng.choice(asked)),
                    Message("assistant", rng.choice(said).format(words[kind]))]  # fmt: skip
            more, mine = self._encoder.conversation(turn)
            ids, answers = ids + more, answers + mine
        return ids, answers
