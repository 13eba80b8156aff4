"""Experiment (f): associative recall (several pairs) and needle (one pair), by distance.

A sequence is noise with `pairs` pairs (key, value) at random places, and then every key again: the
model has to say its value. Loss and hits count on those values alone. Keys, values and noise are
disjoint sets of tokens.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.baselines.build import match_parameters, new_decoder, parameter_count, state_bytes
from gma_torch.config import PRESETS, GmaConfig
from gma_torch.experiments.harness import (
    Cell,
    Experiment,
    Result,
    by_variant,
    lines_figure,
    over_seeds,
)
from gma_torch.experiments.training import options_of, train_cell
from gma_torch.train.errors import TrainError

_TEST_SEQUENCES = 400
_EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_VARIANTS: dict[str, dict[str, Any]] = {
    "GMA plain": {"mixer": "gma"},
    "GMA from_scratch": {"mixer": "gma", "options": PRESETS["from_scratch"]},
    "GMA window 32, adapted": {
        "mixer": "gma",
        "options": {**PRESETS["converted"], "window": 32, "short_conv": 4},
    },
    "softmax, RoPE": {"mixer": "softmax"},
    "window 32": {"mixer": "window", "options": {"window": 32}},
    "linear, ELU": {"mixer": "linear_elu"},
    "SSD": {"mixer": "ssd"},
}


@dataclass
class RecallConfig:
    """`pairs` lists the tasks: 1 is the needle. Half of the tokens that are no pair are noise."""

    pairs: list[int] = field(default_factory=lambda: [1, 8, 32])
    keys: int = 64
    values: int = 64
    noise: int = 64
    hidden_size: int = 64
    layers: int = 2
    heads: int = 2
    intermediate_size: int = 176
    components: int = 32
    routing_dim: int = 16
    steps: int = 2000
    batch: int = 16
    context: int = 256
    lr: float = 2e-3
    warmup: int = 100
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


class RecallTask:
    """Batches [b, context + 1] and, for measuring, the distance of each question from its pair."""

    def __init__(self, config: RecallConfig, pairs: int, seed: int) -> None:
        self.config, self.pairs, self.seed = config, pairs, seed
        if pairs > config.keys or not 0 < 4 * pairs <= config.context + 1:
            raise TrainError(
                f"--pairs {pairs} must be at most --keys {config.keys} and a quarter of --context "
                f"{config.context}"
            )

    def digest(self) -> str:
        """See `Task`: the data is a function of the settings."""
        return f"{self.config}{self.pairs}{self.seed}"

    def rows(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences [count, context + 1] and distances [count, pairs]."""
        c, n = self.config, self.pairs
        body = c.context + 1 - 2 * n
        tokens = rng.integers(c.keys + c.values, c.keys + c.values + c.noise, (count, body + 2 * n))
        distances = np.zeros((count, n), np.int64)
        for row, gaps in zip(tokens, distances, strict=True):
            keys = rng.permutation(c.keys)[:n]
            values = c.keys + rng.integers(0, c.values, n)
            places = 2 * np.sort(rng.permutation(body // 2)[:n])
            row[places], row[places + 1] = keys, values
            order = rng.permutation(n)
            row[body::2], row[body + 1 :: 2] = keys[order], values[order]
            gaps[:] = body + 2 * np.arange(n) - places[order]
        return tokens, distances

    def batch(self, step: int) -> Tensor:
        """See `Task`."""
        rng = np.random.default_rng([self.seed, step])
        return torch.from_numpy(self.rows(rng, self.config.batch)[0])

    def _answers(self, model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b, pairs, vocab] at the questions, and the values [b, pairs]."""
        first = batch.shape[1] - 2 * self.pairs
        return model(batch[:, :-1])[:, first::2].float(), batch[:, first + 1 :: 2]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """See `Task`."""
        logits, values = self._answers(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), values.flatten())

    @torch.no_grad()
    def hits(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray, float]:
        """Hit or not and distance of each held-out question, and their mean loss."""
        rng = np.random.default_rng([self.seed, 2**32])  # no step of training
        hits, distances, losses = [], [], []
        device = next(model.parameters()).device
        for _ in range(-(-_TEST_SEQUENCES // self.config.batch)):
            tokens, gaps = self.rows(rng, self.config.batch)
            batch = torch.from_numpy(tokens).to(device)
            logits, values = self._answers(model, batch)
            losses.append(float(F.cross_entropy(logits.flatten(0, 1), values.flatten())))
            hits.append((logits.argmax(-1) == values).cpu().numpy().ravel())
            distances.append(gaps.ravel())
        return np.concatenate(hits), np.concatenate(distances), sum(losses) / len(losses)

    def validate(self, model: nn.Module) -> float:
        """See `Task`."""
        return self.hits(model)[2]


def _cells(config: RecallConfig) -> list[Cell]:
    for pairs in config.pairs:
        RecallTask(config, pairs, 0)
    return [
        {"name": f"{name.replace(' ', '_')}-{pairs}-seed{seed}", "variant": name, "pairs": pairs,
         "seed": seed, **variant}
        for seed in config.seeds for pairs in config.pairs for name, variant in _VARIANTS.items()
    ]  # fmt: skip


def _run(config: RecallConfig, cell: Cell, folder: Path) -> Result:
    base = GmaConfig(
        vocab_size=config.keys + config.values + config.noise, hidden_size=config.hidden_size,
        num_hidden_layers=config.layers, num_attention_heads=config.heads,
        head_dim=config.hidden_size // config.heads, num_components=config.components,
        routing_dim=config.routing_dim, intermediate_size=config.intermediate_size,
        tie_word_embeddings=True,
    )  # fmt: skip
    target = parameter_count(base, "softmax")
    shape = base.with_options(**cell.get("options", {}))
    shape = match_parameters(shape, cell["mixer"], target)
    task = RecallTask(config, cell["pairs"], cell["seed"])
    model = new_decoder(shape, cell["mixer"], cell["seed"])
    result = train_cell(model, task, options_of(config, cell["seed"]), folder, cell["name"])
    hits, distances, _ = task.hits(model)
    by_distance = {}
    for low, high in zip(_EDGES, _EDGES[1:], strict=False):
        inside = (distances >= low) & (distances < high)
        if inside.any():
            by_distance[f"{low}-{high}"] = float(hits[inside].mean())
    size = state_bytes(shape, cell["mixer"], config.context)
    return {**result, "state_bytes": size, "hits": float(hits.mean()), "by_distance": by_distance}


def _curve(group: list[Result]) -> dict[str, float]:
    spans = dict.fromkeys(span for r in group for span in r["by_distance"])
    ordered = sorted(spans, key=lambda span: int(span.split("-")[0]))
    found = {s: [r["by_distance"][s] for r in group if s in r["by_distance"]] for s in ordered}
    return {s: sum(values) / len(values) for s, values in found.items()}


def _rows(results: list[Result]) -> list[dict[str, Any]]:
    rows = []
    for (pairs, name), group in by_variant(results, "pairs", "variant").items():
        mean, spread = over_seeds(group, "hits")
        rows.append({
            "pairs": pairs, "variant": name, "parameters": group[0]["parameters"],
            "tokens": group[0]["tokens"], "state bytes": group[0]["state_bytes"],
            "seeds": len(group), "hits": mean, "sd": spread, **_curve(group),
        })  # fmt: skip
    return rows


def _figure(results: list[Result], path: Path) -> None:
    groups = by_variant(results, "pairs", "variant").items()
    curves = {f"{pairs} pairs: {name}": _curve(group) for (pairs, name), group in groups}
    lines_figure(curves, path, x="distance from pair to question (tokens)", y="share of hits")


EXPERIMENT = Experiment(
    name="recall",
    about="Recall by distance: share of values named right; synthetic sequences, equal parameters.",
    config=RecallConfig,
    cells=_cells,
    run=_run,
    rows=_rows,
    figure=_figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
