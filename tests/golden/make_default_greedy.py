"""Writes default_greedy.json beside it: greedy text of the default model, in float64 by gma_torch.

    prompt_tokens  ids of the prompt, a chat with one question
    tokens         the TOKENS ids that follow greedily (the end token does not end it)
    margin         smallest distance between the best and the second logit on the way

Two implementations can only agree on a greedy text whose choices are clear, so the first question
is taken whose margin is above MARGIN, far above the rounding errors of float32.

Usage: python tests/golden/make_default_greedy.py [--model build/models/default]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from gma_torch.decoder import GmaDecoder
from tokenizers import Tokenizer
from tqdm import tqdm

TOKENS = 200
MARGIN = 1e-3
QUESTIONS = [
    "What is the capital of France, and what is it known for?",
    "Explain in a few sentences how a rainbow forms.",
    "Write a short story about a lighthouse keeper.",
    "Give me a recipe for a simple vegetable soup.",
    "What should I pack for a week in the mountains?",
]


def chat_prompt(directory: Path, question: str) -> list[int]:
    """Ids of a conversation that waits for the assistant's first word."""
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    chat = config["gma_chat"]
    system, user = chat["roles"]["system"], chat["roles"]["user"]
    text = system["prefix"] + chat["default_system"] + system["suffix"]
    text += user["prefix"] + question + user["suffix"] + chat["generation_prefix"]
    return Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids


@torch.inference_mode()
def greedy(model: GmaDecoder, prompt: list[int]) -> tuple[list[int], float]:
    """The TOKENS ids after `prompt`, and the smallest margin between first and second choice."""
    state = model.initial_state(1)
    tokens: list[int] = []
    margin = float("inf")
    for token in tqdm(prompt[:-1], desc="prompt"):
        _, state = model.step(torch.tensor([token]), state)
    for _ in tqdm(range(TOKENS), desc="text"):
        logits, state = model.step(torch.tensor([tokens[-1] if tokens else prompt[-1]]), state)
        best = logits[0].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        if margin < MARGIN:
            break
    return tokens, margin


def main() -> None:
    """Writes the file, or fails when no question has a clear greedy text."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=here.parents[1] / "build/models/default")
    directory = parser.parse_args().model
    model = GmaDecoder.from_directory(directory, torch.float64)
    for question in QUESTIONS:
        prompt = chat_prompt(directory, question)
        tokens, margin = greedy(model, prompt)
        print(f"{question}: smallest margin {margin:.2g}")
        if margin < MARGIN:
            continue
        result = {"prompt_tokens": prompt, "tokens": tokens, "margin": margin}
        (here / "default_greedy.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        print(Tokenizer.from_file(str(directory / "tokenizer.json")).decode(tokens))
        return
    raise SystemExit("no question has a clear greedy text; add others")


if __name__ == "__main__":
    main()
