"""Recall probe: a name and a city told in turn 1, asked for a few hundred tokens later.

`python -m gma_torch.evaluate.recall MODEL_DIR --chat FILE`: the turns between are questions and
answers of a held-out chat file (the form of Dolly). Greedy; an answer counts if it holds the word.
Beside the GMA model the softmax transformer it was made from, with full attention and with the
window of equal bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from gma_torch.config import GmaConfig
from gma_torch.convert.data import ChatEncoder, Message, dolly_turn, read_jsonl
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.scoring import SINKS, equal_bytes_window, teacher_of
from gma_torch.gguf_base import DEFAULT_SYSTEM
from gma_torch.llama import CachedAttention, Llama
from gma_torch.tokenizer import load_tokenizer

_NAMES = ("Martin", "Clara", "Oliver", "Sofia", "Daniel", "Emma", "Henry", "Alice", "Peter",
          "Laura", "Thomas", "Maria")  # fmt: skip
_CITIES = ("Paris", "Berlin", "Tokyo", "Boston", "Madrid", "Chicago", "London", "Vienna", "Rome",
           "Dublin", "Lisbon", "Seattle")  # fmt: skip
_ANSWER_TOKENS = 24


def _prompts(
    encoder: ChatEncoder, records: list[dict], count: int, gap: int
) -> list[tuple[list[int], str]]:
    """`count` conversations (token ids up to the answer) with the word that is asked for."""
    rng = random.Random(0)
    short = [r for r in records if len(r["response"]) < 600 and not r.get("context")]
    out = []
    for n in range(count):
        name, city = _NAMES[n % len(_NAMES)], _CITIES[(5 * n + n // 12) % len(_CITIES)]
        messages = [
            Message("system", DEFAULT_SYSTEM),
            Message("user", f"Hi! My name is {name} and I live in {city}."),
            Message("assistant", f"Hello {name}! Nice to meet you. How can I help you today?"),
        ]
        while len(encoder.conversation(messages)[0]) < gap:
            messages += dolly_turn(rng.choice(short))
        ask = "What is my name?" if n % 2 == 0 else "Which city do I live in?"
        ids = encoder.conversation([*messages, Message("user", ask)])[0]
        ids += encoder.marker("<|im_start|>assistant\n")
        out.append((ids, name if n % 2 == 0 else city))
    return out


@torch.no_grad()
def _answer_gma(model: GmaDecoder, ids: list[int], end: int) -> list[int]:
    logits, state = model.prefill(torch.tensor([ids]), model.initial_state(1))
    following, out = logits[0, -1], []
    while len(out) < _ANSWER_TOKENS and int(following.argmax()) != end:
        out.append(int(following.argmax()))
        row, state = model.step(torch.tensor(out[-1:]), state)
        following = row[0]
    return out


@torch.no_grad()
def _answer_softmax(model: Llama, attend: CachedAttention, ids: list[int], end: int) -> list[int]:
    out: list[int] = []
    fed = ids
    while len(out) < _ANSWER_TOKENS:
        hidden = model.hidden(torch.tensor([fed]), attend, attend.tokens)[:, -1]
        token = int(model.logits(hidden).argmax())
        if token == end:
            break
        out.append(token)
        fed = [token]
    return out


def main() -> int:
    """Prints, for each model, how many answers hold the word."""
    parser = argparse.ArgumentParser(prog="gma_torch.evaluate.recall", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--chat", type=Path, required=True, help="JSON lines in the form of Dolly")
    parser.add_argument("--chat_first", type=int, default=0, help="records to leave out")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--gap", type=int, default=350, help="least tokens before the question")
    parser.add_argument("--baselines", action="store_true", help="full attention and window too")
    parser.add_argument("--verbose", action="store_true", help="print every answer")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    records = read_jsonl(args.chat)[args.chat_first :]
    prompts = _prompts(ChatEncoder(tokenizer), records, args.prompts, args.gap)
    config = GmaConfig.from_directory(args.model)
    end = config.eos_token_id
    gma = GmaDecoder.from_directory(args.model)
    models = {"GMA": lambda ids: _answer_gma(gma, ids, end)}
    if args.baselines:
        teacher, width = teacher_of(args.model), equal_bytes_window(config)
        models["full attention"] = lambda ids: _answer_softmax(teacher, CachedAttention(), ids, end)
        models[f"window {width} + {SINKS} sinks"] = lambda ids: _answer_softmax(
            teacher, CachedAttention(width, SINKS), ids, end
        )
    lengths = [len(ids) for ids, _ in prompts]
    print(f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens")
    for name, answer in models.items():
        right = 0
        for ids, word in tqdm(prompts, desc=name, leave=False):
            text = tokenizer.decode(answer(ids))
            right += word in text
            if args.verbose:
                print(f"  {name} [{word}] {text!r}")
        print(f"{name}: {right} of {len(prompts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
