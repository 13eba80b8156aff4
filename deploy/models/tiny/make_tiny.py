"""Writes the tiny models beside it: seeded random weights, for tests of everything around a model.

Three flavours: plain (the paper's layer), from_scratch and converted (the presets). Their
byte-level BPE tokenizer is trained on public-domain text: the first characters of
books/valid.txt.xz.

Usage: python deploy/models/tiny/make_tiny.py --books PATH/books/valid.txt.xz
       python deploy/models/tiny/make_tiny.py            (keeps the tokenizer, writes the weights)
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

from gma_torch.checkpoint import save_model
from gma_torch.config import PRESETS, GmaConfig
from gma_torch.testing import random_model
from gma_torch.tokenizer import load_tokenizer, save_tokenizer, special_ids, train_tokenizer
from tokenizers import Tokenizer

FLAVOURS = ("plain", "from_scratch", "converted")
_VOCABULARY = 768
_TEXT_CHARACTERS = 1_000_000


def make_model(flavour: str, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes one model directory."""
    start, ends = special_ids(tokenizer)
    config = GmaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_memory_heads=2 if flavour == "converted" else 4,
        head_dim=16,
        num_components=16,
        routing_dim=8,
        intermediate_size=128,
        bos_token_id=start,
        eos_token_id=ends,
    ).with_options(**PRESETS[flavour])
    save_model(random_model(config, FLAVOURS.index(flavour)), directory)
    save_tokenizer(tokenizer, directory)


def main() -> None:
    """Writes the three directories."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--books", type=Path, help="xz-compressed text to train the tokenizer on")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    flags = parser.parse_args()
    if flags.books:
        with lzma.open(flags.books, "rt", encoding="utf-8") as books:
            text = books.read(_TEXT_CHARACTERS)
        tokenizer = train_tokenizer(iter(text.splitlines(keepends=True)), _VOCABULARY)
    else:
        tokenizer = load_tokenizer(Path(__file__).parent / FLAVOURS[0])
    for flavour in FLAVOURS:
        make_model(flavour, tokenizer, flags.out / flavour)
        print(flags.out / flavour)


if __name__ == "__main__":
    main()
