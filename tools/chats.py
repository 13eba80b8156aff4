#!/usr/bin/env python3
"""Ten chats with a running server as gma-chat shows them, uncut and in order, as Markdown.

By hand: tools/run --server_only in one terminal, tools/chats.py in another. The questions are fixed
and the first answers are the ones printed; sampling is gma-chat's own, with a fixed seed. An answer
ends at 400 tokens, which a small model that repeats itself would fill otherwise.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

CHAT = Path(__file__).resolve().parent.parent / "build/release/bin/gma-chat"
QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "Give me three tips for sleeping better.",
    "What is the difference between a list and a tuple in Python?",
    "Summarize the story of Romeo and Juliet in a few sentences.",
    "My name is Clara and I live in Lisbon. Suggest something to do on a rainy Sunday.",
    "How do I make a cup of tea?",
    "If I have 3 apples and buy 4 more, how many apples do I have?",
)
CONVERSATION = (
    "Hi! My name is Martin and I am planning a trip to Italy.",
    "Which three cities should I visit?",
    "Tell me more about the first one.",
    "What food should I try there?",
    "Is it better to travel by train or by car?",
    "What should I pack for a week in spring?",
    "Can you teach me a few words of Italian?",
    "How do I say thank you?",
    "What was my name again?",
    "And which country am I going to?",
    "Who painted the Mona Lisa?",
    "Where can I see it?",
    "Write a postcard to my sister Anna from Rome.",
    "Make it shorter.",
    "What is a good present for her?",
    "How much is 15 euros plus 27 euros?",
    "What should I do if I lose my passport?",
    "Give me a checklist for the last day.",
    "What was the name of my sister?",
    "Thanks for your help! Any last advice?",
)


def quoted(speaker: str, text: str) -> str:
    """A block of Markdown."""
    lines = "\n".join(f"> {line}" if line else ">" for line in text.splitlines() or [""])
    return f"**{speaker}**\n\n{lines}\n"


def ask(flags: list[str], question: str, session: str) -> tuple[str, str]:
    """The answer, and the session that has it, which stays open."""
    command = [
        CHAT,
        *flags,
        "--keep",
        "--prompt",
        question,
        *(["--session", session] * bool(session)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{CHAT.name}: {done.stderr.strip()}")
    return done.stdout.strip(), re.findall(r"[0-9a-f]{32}", done.stderr)[-1]


def main() -> int:
    """Prints the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="127.0.0.1:50051", help="address (default %(default)s)")
    parser.add_argument("--seed", default="1", help="default %(default)s")
    args = parser.parse_args()
    flags = ["--server", args.server, "--seed", args.seed, "--max_tokens", "400"]
    chats = [*((question,) for question in QUESTIONS), CONVERSATION]
    for number, questions in enumerate(chats, start=1):
        print(f"### {number}" + (f" ({len(questions)} turns)" if len(questions) > 1 else "") + "\n")
        session = ""
        for question in questions:
            answer, session = ask(flags, question, session)
            print(quoted("user", question))
            print(quoted("model", answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
