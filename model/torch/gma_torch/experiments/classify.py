"""Experiment (c): bidirectional GMA against softmax and linear attention on classification.

IMDB (bytes, so that reviews are long), AG News (bytes) and ListOps (symbols), at several lengths.
The last tenth of a training set is for validation; the table has the test accuracy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.experiments.encoder import MIXERS, PADDING, Encoder
from gma_torch.experiments.harness import (
    Cell,
    Experiment,
    Result,
    by_variant,
    lines_figure,
    over_seeds,
    require_file,
)
from gma_torch.experiments.training import options_of, train_cell
from gma_torch.train.data import read_text
from gma_torch.train.errors import TrainError

_LISTOPS_TEST = 2000


@dataclass
class ClassifyConfig:
    """Texts are cut at each of `lengths` tokens; the MLP makes parameter counts equal."""

    data: str = "data"
    tasks: list[str] = field(default_factory=lambda: ["imdb", "ag-news", "listops"])
    lengths: list[int] = field(default_factory=lambda: [1024, 4096])
    hidden_size: int = 64
    layers: int = 2
    heads: int = 2
    intermediate_size: int = 176
    components: int = 32
    routing_dim: int = 16
    steps: int = 1500
    batch: int = 16
    lr: float = 1e-3
    warmup: int = 100
    test_texts: int = 2000
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


@dataclass
class Labelled:
    """Texts as token arrays [n] uint16, tokens from 1; their labels; and both sizes."""

    train: list[tuple[np.ndarray, int]]
    test: list[tuple[np.ndarray, int]]
    vocabulary: int
    classes: int


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.uint16) + 1


def _imdb(folder: Path) -> Labelled:
    def read(part: str) -> list[tuple[np.ndarray, int]]:
        lines = read_text(require_file(folder / f"imdb/{part}.tsv.xz")).split("\n")
        rows = [line.split("\t", 3) for line in lines if line]
        named = {"pos": 1, "positive": 1, "1": 1, "neg": 0, "negative": 0, "0": 0}
        return [(_bytes(row[3]), named[row[0]]) for row in rows if row[0] in named]

    return Labelled(read("train"), read("test"), 257, 2)


def _ag_news(folder: Path) -> Labelled:
    def read(name: str) -> list[list[str]]:
        text = read_text(require_file(folder / f"ag-news/{name}.csv.xz"))
        return [row for row in csv.reader(io.StringIO(text)) if row]

    train = [(_bytes(r[0]), int(r[1])) for r in read("train-5000") if r[1].isdigit()]
    test = [(_bytes(" ".join(r[1:])), int(r[0]) - 1) for r in read("test") if r[0].isdigit()]
    return Labelled(train, test, 257, 4)


def _listops(folder: Path) -> Labelled:
    text = read_text(require_file(folder / "listops/test_d20.tsv.xz"))
    rows = [line.split("\t") for line in text.split("\n") if line]
    rows = [(row[1].split(), int(row[0])) for row in rows if row[0].isdigit()]
    symbols = {s: n for n, s in enumerate(sorted({s for row, _ in rows for s in row}), start=1)}
    coded = [(np.array([symbols[s] for s in row], np.uint16), label) for row, label in rows]
    return Labelled(coded[:-_LISTOPS_TEST], coded[-_LISTOPS_TEST:], len(symbols) + 1, 10)


_READERS = {"imdb": _imdb, "ag-news": _ag_news, "listops": _listops}


@cache
def load_task(root: str, name: str) -> Labelled:
    """The texts of a task, the training ones in a fixed random order."""
    if name not in _READERS:
        raise TrainError(f"--tasks has {name}, must be of {', '.join(_READERS)}")
    data = _READERS[name](Path(root))
    if len(data.train) < 10 or not data.test:
        raise TrainError(
            f"{root}/{name}: {len(data.train)} training and {len(data.test)} test texts, too few"
        )
    order = np.random.default_rng(0).permutation(len(data.train))
    data.train = [data.train[n] for n in order]
    return data


class ClassifyTask:
    """Batches [b, 1 + T]: the label, then the tokens, padded to the longest of the batch."""

    def __init__(self, data: Labelled, config: ClassifyConfig, length: int, seed: int) -> None:
        self.data, self.batch_size, self.length, self.seed = data, config.batch, length, seed
        cut = len(data.train) - max(1, len(data.train) // 10)
        self.train, self.valid = data.train[:cut], data.train[cut:][:500]

    def digest(self) -> str:
        """See `Task`."""
        sha = hashlib.sha256(f"{self.length} {self.seed}".encode())
        for tokens, label in self.train:
            sha.update(tokens.tobytes() + bytes([label]))
        return sha.hexdigest()

    def _packed(self, texts: list[tuple[np.ndarray, int]]) -> Tensor:
        wide = max(1, min(self.length, max(len(tokens) for tokens, _ in texts)))
        out = torch.full((len(texts), 1 + wide), PADDING)
        for row, (tokens, label) in zip(out, texts, strict=True):
            kept = torch.from_numpy(tokens[:wide].astype(np.int64))
            row[0], row[1 : 1 + len(kept)] = label, kept
        return out

    def batch(self, step: int) -> Tensor:
        """See `Task`: texts drawn at random."""
        rng = np.random.default_rng([self.seed, step])
        return self._packed([self.train[n] for n in rng.integers(0, len(self.train),
                                                                 self.batch_size)])  # fmt: skip

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """See `Task`."""
        return F.cross_entropy(model(batch[:, 1:]).float(), batch[:, 0])

    @torch.no_grad()
    def _scores(self, model: nn.Module, texts: list[tuple[np.ndarray, int]]) -> tuple[float, float]:
        """Mean loss and accuracy."""
        device, loss, hits = next(model.parameters()).device, 0.0, 0
        ordered = sorted(texts, key=lambda text: len(text[0]))  # little padding
        for begin in range(0, len(ordered), self.batch_size):
            batch = self._packed(ordered[begin : begin + self.batch_size]).to(device)
            logits = model(batch[:, 1:]).float()
            loss += float(F.cross_entropy(logits, batch[:, 0], reduction="sum"))
            hits += int((logits.argmax(-1) == batch[:, 0]).sum())
        return loss / len(texts), hits / len(texts)

    def validate(self, model: nn.Module) -> float:
        """See `Task`."""
        return self._scores(model, self.valid)[0]

    def accuracy(self, model: nn.Module, limit: int) -> tuple[float, int]:
        """On at most `limit` test texts, evenly spaced over them; and how many those are."""
        count = min(limit, len(self.data.test))
        texts = [self.data.test[n * len(self.data.test) // count] for n in range(count)]
        return self._scores(model, texts)[1], count


def _encoder(config: ClassifyConfig, data: Labelled, mixer: str) -> Encoder:
    """With as many parameters as softmax attention, to within half of an MLP unit."""

    def build(name: str, intermediate: int) -> Encoder:
        return Encoder(name, data.vocabulary, data.classes, width=config.hidden_size,
                       layers=config.layers, heads=config.heads, intermediate=intermediate,
                       components=config.components, routing=config.routing_dim)  # fmt: skip

    def size(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    width = config.intermediate_size
    with torch.device("meta"):
        excess = size(build(mixer, width)) - size(build("softmax", width))
    width -= round(excess / (3 * config.hidden_size * config.layers))
    if width < 1:
        raise TrainError(f"--components {config.components} leaves no parameters for the MLP")
    return build(mixer, width)


def _cells(config: ClassifyConfig) -> list[Cell]:
    for task in config.tasks:
        load_task(config.data, task)
    return [
        {"name": f"{task}-{length}-{mixer}-seed{seed}", "task": task, "length": length,
         "mixer": mixer, "seed": seed}
        for seed in config.seeds for task in config.tasks for length in config.lengths
        for mixer in MIXERS
    ]  # fmt: skip


def _run(config: ClassifyConfig, cell: Cell, folder: Path) -> Result:
    data = load_task(config.data, cell["task"])
    torch.manual_seed(cell["seed"])
    model = _encoder(config, data, cell["mixer"])
    task = ClassifyTask(data, config, cell["length"], cell["seed"])
    options = options_of(config, cell["seed"], cell["length"])
    result = train_cell(model, task, options, folder, cell["name"])
    accuracy, texts = task.accuracy(model, config.test_texts)
    del result["tokens"], result["tokens_per_second"]  # texts differ in length
    seen = config.steps * config.batch
    return {**result, "accuracy": accuracy, "texts": texts, "texts_seen": seen}


def _rows(results: list[Result]) -> list[dict[str, Any]]:
    rows = []
    for (task, length, mixer), group in by_variant(results, "task", "length", "mixer").items():
        mean, spread = over_seeds(group, "accuracy")
        rows.append({
            "task": task, "length": length, "mixer": mixer, "parameters": group[0]["parameters"],
            "texts seen": group[0]["texts_seen"], "test texts": group[0]["texts"],
            "seeds": len(group), "accuracy": mean, "sd": spread,
        })  # fmt: skip
    return rows


def _figure(results: list[Result], path: Path) -> None:
    curves: dict[str, dict[str, float]] = {}
    for (task, length, mixer), group in by_variant(results, "task", "length", "mixer").items():
        mean = over_seeds(group, "accuracy")[0]
        curves.setdefault(mixer, {})[f"{task} {length}"] = mean
    lines_figure(curves, path, x="task and length", y="test accuracy")


EXPERIMENT = Experiment(
    name="classify",
    about="Bidirectional classification: test accuracy, equal parameters and texts seen.",
    config=ClassifyConfig,
    cells=_cells,
    run=_run,
    rows=_rows,
    figure=_figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
