"""Ten samples, uncut and in order, as Markdown: `python -m gma_torch.evaluate.samples MODEL_DIR`.

The prompts are fixed and the first answers are the ones printed: nothing is chosen afterwards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.chat import Chat

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
    "Thanks for your help! Any last advice?",
)


def _block(speaker: str, text: str) -> str:
    quoted = "\n".join(f"> {line}" if line else ">" for line in text.splitlines() or [""])
    return f"**{speaker}**\n\n{quoted}\n"


def samples(folder: Path, temperature: float, seed: int) -> str:
    """Nine single questions, then one conversation of ten turns."""
    model = GmaDecoder.from_directory(folder)
    how = "greedy" if temperature == 0 else f"temperature {temperature}, top-p 0.95, seed {seed}"
    parts = []
    for number, question in enumerate(QUESTIONS, start=1):
        chat = Chat(model, folder, temperature=temperature, seed=seed)
        parts += [f"### {number} ({how})\n", _block("user", question)]
        parts.append(_block("model", chat.ask(question, 160)))
        print(f"sample {number} of {len(QUESTIONS) + 1}", file=sys.stderr, flush=True)
    parts.append(f"### {len(QUESTIONS) + 1} (one session, {how})\n")
    chat = Chat(model, folder, temperature=temperature, seed=seed)
    for question in CONVERSATION:
        parts += [_block("user", question), _block("model", chat.ask(question, 120))]
    parts.append(f"Tokens in the state at the end: {chat.state.position}.\n")
    return "\n".join(parts)


def main() -> int:
    """Prints the samples."""
    parser = argparse.ArgumentParser(prog="gma_torch.evaluate.samples", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(samples(args.model, args.temperature, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
