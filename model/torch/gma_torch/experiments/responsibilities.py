"""Experiment (e): what the components of a trained model stand for (docs/MATH.md 14).

For every layer, of keys and (with the static read) of queries, on a held-out text, beside the same
measures with the tokens' categories permuted. Queries with the adapted read have no routing.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from gma_torch.config import GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.texts import text_windows
from gma_torch.experiments.harness import Cell, Experiment, Result, require_file
from gma_torch.tokenizer import load_tokenizer
from gma_torch.train.errors import TrainError

CATEGORIES = ("word start", "continuation", "capitalised", "number", "punctuation", "white space",
              "function word", "special")  # fmt: skip
_FUNCTION_WORDS = re.compile(
    "the|an?|and|or|but|of|to|in|on|at|by|for|with|from|as|is|are|was|were|be|been|it|he|she|they|"
    "we|you|i|his|her|its|their|that|this|which|who|not?|so|if|then|than|there|had|has|have|do|did|"
    "will|would|can|could"
)


@dataclass
class ResponsibilitiesConfig:
    """A model directory and a text that it was not trained on."""

    model: str = "model"
    text: str = "data/books/valid.txt.xz"
    windows: int = 8
    length: int = 512
    seed: int = 0


def category(tokenizer: Tokenizer, token: int, special: set[int]) -> int:
    """Index in `CATEGORIES` of a token of a byte-level vocabulary."""
    if token in special:
        return CATEGORIES.index("special")
    text = tokenizer.decode([token])
    word = text.strip()
    if not word:
        return CATEGORIES.index("white space")
    if _FUNCTION_WORDS.fullmatch(word.lower()) and (text[0].isspace() or word[0].isupper()):
        return CATEGORIES.index("function word")
    if word[0].isdigit():
        return CATEGORIES.index("number")
    if not word[0].isalpha():
        return CATEGORIES.index("punctuation")
    if word[0].isupper():
        return CATEGORIES.index("capitalised")
    return CATEGORIES.index("word start" if text[0].isspace() else "continuation")


def _entropy(p: Tensor) -> float:
    return float(-(p * p.clamp_min(1e-300).log()).sum())


def measures(resp: Tensor, cat: Tensor, classes: int) -> dict[str, float]:
    """The measures of docs/MATH.md 14: resp [T, K] rows on the simplex, cat [T]."""
    resp = resp.double()
    tokens, components = resp.shape
    usage = resp.mean(0)
    u, routing = _entropy(usage), _entropy(resp) / tokens
    onehot = torch.nn.functional.one_hot(cat, classes).double()
    joint = resp.T @ onehot / tokens  # J [K, c]
    shares = onehot.mean(0)
    information = u + _entropy(shares) - _entropy(joint)
    return {
        "K_eff": math.exp(u),
        "usage entropy": u / math.log(components) if components > 1 else 1.0,
        "routing perplexity": math.exp(routing),
        "exp I": math.exp(u - routing),
        "NMI": information / max(1e-12, (u + _entropy(shares)) / 2),
        "purity": float(joint.amax(1).sum()),
        "max P(c)": float(shares.max()),
        "dead": float((usage < 0.1 / components).double().mean()),
        "mass skew": float(usage.max() * components),
    }


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(p[key] for p in parts) / len(parts) for key in parts[0]}


def _cells(config: ResponsibilitiesConfig) -> list[Cell]:
    require_file(Path(config.text))
    layers = GmaConfig.from_directory(config.model).layers
    return [
        {"name": f"layer{n}-{side}", "layer": n, "side": side}
        for n, options in enumerate(layers)
        for side in (["keys"] if options.read == "adapted" else ["keys", "queries"])
    ]


class _Routed:
    """Responsibilities of every layer of one model on one text, computed once."""

    def __init__(self) -> None:
        self._of: ResponsibilitiesConfig | None = None

    def __call__(self, config: ResponsibilitiesConfig) -> tuple[dict[tuple[int, str], Tensor],
                                                                Tensor]:  # fmt: skip
        """(layer, side) -> [heads, T, K] float32; and the categories [T]."""
        if self._of != config:
            self._of, self._answer = config, _route(config)
        return self._answer


_routed: Callable[[ResponsibilitiesConfig], Any] = _Routed()


@torch.no_grad()
def _route(config: ResponsibilitiesConfig) -> tuple[dict[tuple[int, str], Tensor], Tensor]:
    model = GmaDecoder.from_directory(config.model)
    tokenizer = load_tokenizer(config.model)
    windows = text_windows(tokenizer, Path(config.text), config.windows, config.length)
    found: dict[tuple[int, str], list[Tensor]] = {}

    def hook(layer: int) -> Callable[..., None]:
        def before(mixer: torch.nn.Module, args: tuple) -> None:
            queries, keys = mixer.responsibilities(args[0])
            found.setdefault((layer, "keys"), []).append(keys[0].transpose(0, 1))
            if queries is not None:
                found.setdefault((layer, "queries"), []).append(queries[0].transpose(0, 1))

        return before

    for n, layer in enumerate(model.model.layers):
        layer.mixer.register_forward_pre_hook(hook(n))
    for window in windows:
        model(window.tokens.unsqueeze(0))
    special = set(tokenizer.get_added_tokens_decoder())
    tokens = torch.cat([w.tokens for w in windows]).tolist()
    kinds = {token: category(tokenizer, token, special) for token in set(tokens)}
    return (
        {key: torch.cat(parts, 1) for key, parts in found.items()},
        torch.tensor([kinds[token] for token in tokens]),
    )


def _run(config: ResponsibilitiesConfig, cell: Cell, folder: Path) -> Result:
    del folder
    if config.windows < 1 or config.length < 2:
        raise TrainError("--windows must be at least 1 and --length at least 2")
    routed, cat = _routed(config)
    resp = routed[cell["layer"], cell["side"]]
    gen = torch.Generator().manual_seed(config.seed)
    mixed = cat[torch.randperm(len(cat), generator=gen)]
    classes = len(CATEGORIES)
    onehot = torch.nn.functional.one_hot(cat, classes).float()
    joint = resp[0].T @ onehot / onehot.sum(0).clamp_min(1)  # P(slot | category), first head
    permuted = _mean([measures(head, mixed, classes) for head in resp])
    return {
        "tokens": len(cat), "heads": len(resp),
        **_mean([measures(head, cat, classes) for head in resp]),
        "NMI permuted": permuted["NMI"], "purity permuted": permuted["purity"],
        "heat": [[round(float(x), 5) for x in row] for row in joint.T],
    }  # fmt: skip


def _rows(results: list[Result]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in r.items() if key not in ("name", "heat")} for r in results
    ]


def _figure(results: list[Result], path: Path) -> None:
    """P(slot | category) of the first head of each layer; slots ordered by their category."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    wide = min(6, len(results))
    deep = -(-len(results) // wide)
    figure, axes = plt.subplots(deep, wide, figsize=(3.2 * wide, 1.9 * deep), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, result in zip(axes.flat, results, strict=False):
        heat = torch.tensor(result["heat"])
        axis.axis("on")
        axis.imshow(
            heat[:, heat.argmax(0).argsort(stable=True)].numpy(), aspect="auto", cmap="magma"
        )
        axis.set_title(f"layer {result['layer']}, {result['side']}", fontsize=8)
        axis.set_yticks(range(len(CATEGORIES)), CATEGORIES, fontsize=5)
        axis.set_xticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


EXPERIMENT = Experiment(
    name="responsibilities",
    about="Components and token categories, mean over heads; permuted: categories in random order.",
    config=ResponsibilitiesConfig,
    cells=_cells,
    run=_run,
    rows=_rows,
    figure=_figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
