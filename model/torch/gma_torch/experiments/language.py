"""Language modelling cells: texts, the task, the variants. Shared by `lm` and `ladder`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.baselines.build import match_parameters, new_decoder, parameter_count, state_bytes
from gma_torch.config import GmaConfig
from gma_torch.experiments.harness import (
    Cell,
    Result,
    by_variant,
    lines_figure,
    over_seeds,
    require_file,
)
from gma_torch.experiments.training import options_of, train_cell
from gma_torch.tokenizer import train_tokenizer
from gma_torch.train.data import BatchOrder, Corpus, encode, pieces, read_text, valid_batches
from gma_torch.train.errors import TrainError

TEXTS = ("wikitext2", "books")
_EDGES = (0, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass
class LanguageConfig:
    """Sizes of a language modelling experiment; the defaults suit two cores.

    `text` is wikitext2 (words, the official split) or books (BPE of `vocab_size` tokens, of the
    first `book_characters` characters). The variants have as many parameters as softmax attention
    with an MLP of `intermediate_size`.
    """

    data: str = "data"
    text: str = "wikitext2"
    book_characters: int = 20_000_000
    vocab_size: int = 2048
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 352
    components: int = 32
    routing_dim: int = 16
    steps: int = 1200
    batch: int = 4
    context: int = 512
    lr: float = 2e-3
    warmup: int = 100
    test_tokens: int = 300_000
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


@dataclass
class LanguageData:
    """train, valid, test tokens [n] uint32 and the size of the vocabulary."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: int


def _words(text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")  # splitlines would also split inside some lines
    return [word for line in lines for word in [*line.split(), "<eos>"]]


@cache
def load_data(root: str, text: str, characters: int, vocab_size: int) -> LanguageData:
    """The tokens of a text; the vocabulary comes from its train split alone."""
    folder = Path(root)
    if text == "wikitext2":
        files = [
            folder / f"wikitext-2/wiki.{part}.tokens.xz" for part in ("train", "valid", "test")
        ]
        splits = [_words(read_text(require_file(file))) for file in files]
        ids = {word: n for n, (word, _) in enumerate(Counter(splits[0]).most_common())}
        unknown = ids.get("<unk>", 0)
        arrays = [np.array([ids.get(w, unknown) for w in part], np.uint32) for part in splits]
        return LanguageData(*arrays, len(ids))
    if text == "books":
        train = read_text(require_file(folder / "books/train-0.txt.xz"))[:characters]
        held_out = read_text(require_file(folder / "books/valid.txt.xz"))
        middle = held_out.find("\n", len(held_out) // 2) + 1
        tokenizer = train_tokenizer(pieces(train), vocab_size)
        arrays = [encode(tokenizer, t) for t in (train, held_out[:middle], held_out[middle:])]
        return LanguageData(*arrays, tokenizer.get_vocab_size())
    raise TrainError(f"--text is {text}, must be one of {', '.join(TEXTS)}")


class LanguageTask:
    """Next-token prediction on sequences of `context` tokens."""

    def __init__(self, data: LanguageData, config: LanguageConfig, seed: int) -> None:
        for name in ("train", "valid", "test"):
            if len(getattr(data, name)) <= config.context:
                raise TrainError(
                    f"the {name} text has {len(getattr(data, name))} tokens, must have more than "
                    f"--context {config.context}"
                )
        self.data, self.config = data, config
        self._order = BatchOrder(data.train, config.context, config.batch, seed)
        self._corpus = Corpus(data.train, data.valid, 0)

    def digest(self) -> str:
        """See `Task`."""
        return self._corpus.digest()

    def batch(self, step: int) -> Tensor:
        """See `Task`."""
        return self._order.batch(step)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """See `Task`."""
        logits = model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    def validate(self, model: nn.Module) -> float:
        """Mean loss of the validation split, at most 50,000 tokens of it."""
        return float(self.by_position(model, self.data.valid, 50_000).mean())

    @torch.no_grad()
    def by_position(self, model: nn.Module, tokens: np.ndarray, limit: int) -> Tensor:
        """Mean loss [context] of each position in a sequence."""
        context, device = self.config.context, next(model.parameters()).device
        total, count = torch.zeros(context, dtype=torch.float64), 0
        for part in valid_batches(tokens, context, self.config.batch, limit):
            part = part.to(device)
            logits = model(part[:, :-1]).float()
            loss = F.cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none")
            total += loss.double().sum(0).cpu()
            count += part.shape[0]
        return total / count


def variant_config(config: LanguageConfig, vocabulary: int, variant: dict[str, Any]) -> GmaConfig:
    """The shape of a variant, with the parameters of softmax attention."""
    base = GmaConfig(
        vocab_size=vocabulary, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, head_dim=config.hidden_size // config.heads,
        num_components=variant.get("components", config.components),
        routing_dim=config.routing_dim, intermediate_size=config.intermediate_size,
        tie_word_embeddings=True,
    )  # fmt: skip
    target = parameter_count(base, "softmax")
    own = base.with_options(**variant.get("options", {}))
    return match_parameters(own, variant["mixer"], target)


def language_cells(config: LanguageConfig, variants: dict[str, dict[str, Any]]) -> list[Cell]:
    """Every variant with every seed, one seed after the other."""
    load_data(config.data, config.text, config.book_characters, config.vocab_size)
    return [
        {"name": f"{name.replace(' ', '_')}-seed{seed}", "variant": name, "seed": seed, **variant}
        for seed in config.seeds
        for name, variant in variants.items()
    ]


def run_language_cell(config: LanguageConfig, cell: Cell, folder: Path) -> Result:
    """Trains one model and measures it on the test split."""
    data = load_data(config.data, config.text, config.book_characters, config.vocab_size)
    shape = variant_config(config, data.vocabulary, cell)
    model = new_decoder(shape, cell["mixer"], cell["seed"])
    task = LanguageTask(data, config, cell["seed"])
    result = train_cell(model, task, options_of(config, cell["seed"]), folder, cell["name"])
    loss = task.by_position(model, data.test, config.test_tokens)
    spans = [(a, min(b, config.context)) for a, b in zip(_EDGES, _EDGES[1:], strict=False)]
    return {
        **result,
        "state_bytes": state_bytes(shape, cell["mixer"], config.context),
        "test_loss": float(loss.mean()),
        "by_position": {f"{a}-{b}": float(loss[a:b].mean()) for a, b in spans if a < b},
    }


def language_rows(results: list[Result]) -> list[dict[str, Any]]:
    """One row a variant: means over the seeds."""
    rows = []
    for (name,), group in by_variant(results, "variant").items():
        mean, spread = over_seeds(group, "test_loss")
        row = {
            "variant": name, "parameters": group[0]["parameters"],
            "tokens": group[0]["tokens"], "state bytes": group[0]["state_bytes"],
            "seeds": len(group), "test loss": mean, "sd": spread, "perplexity": math.exp(mean),
            "tokens/s": over_seeds(group, "tokens_per_second")[0],
        }  # fmt: skip
        row |= {span: value for span, value in _mean_curve(group).items()}
        rows.append(row)
    return rows


def _mean_curve(group: list[Result]) -> dict[str, float]:
    spans = group[0]["by_position"]
    return {s: sum(r["by_position"][s] for r in group) / len(group) for s in spans}


def language_figure(results: list[Result], path: Path) -> None:
    """Loss by position."""
    curves = {name: _mean_curve(group) for (name,), group in by_variant(results, "variant").items()}
    lines_figure(curves, path, x="position in the sequence (tokens)", y="test loss (nats a token)")
