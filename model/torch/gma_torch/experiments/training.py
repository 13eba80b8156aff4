"""Training of one cell: `gma_torch.train.Trainer` with another task, resumed from its folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gma_torch.train.errors import TrainError
from gma_torch.train.options import TrainOptions
from gma_torch.train.trainer import Trainer, read_checkpoint

_SAVE_SECONDS = 45.0


class Task(Protocol):
    """What a cell learns. Batches are one integer tensor, labels and all."""

    def digest(self) -> str:
        """Changes with the data."""

    def batch(self, step: int) -> Tensor:
        """The rows of a step: a pure function of it."""

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Mean loss of a batch."""

    def validate(self, model: nn.Module) -> float:
        """Held-out loss."""


class CellTrainer(Trainer):
    """A `Trainer` whose data, loss and validation are a task's; it writes checkpoints alone."""

    def __init__(
        self, model: nn.Module, task: Task, options: TrainOptions, out: Path, device: torch.device
    ) -> None:
        self._saved = time.monotonic()
        super().__init__(model, task, options, out, device)

    def _order(self) -> Task:
        return self.corpus

    def _loss(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            return self.corpus.loss(self.model, tokens.to(self.device))

    @torch.no_grad()
    def validate(self) -> float:
        """Held-out loss of the task."""
        self.model.eval()
        return self.corpus.validate(self.model)

    def _save_due(self) -> bool:
        if time.monotonic() - self._saved < _SAVE_SECONDS:
            return False
        self._saved = time.monotonic()
        return True

    def _write_products(self) -> None:
        """Nothing: the numbers of a cell are its product."""


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_cell(
    model: nn.Module, task: Task, options: TrainOptions, folder: Path, name: str
) -> dict[str, Any]:
    """Trains to the end, from the checkpoint in `folder` if one is there; returns the numbers."""
    trainer = CellTrainer(model, task, options, folder, default_device())
    try:
        state, tensors = read_checkpoint(folder)
    except TrainError:
        state = None  # the cell has not begun
    if state is not None:
        trainer.restore(state, tensors)
    begin, first = time.monotonic(), trainer.step
    with tqdm(
        total=options.steps, initial=first, desc=name, unit="step", leave=False, dynamic_ncols=True
    ) as bar:

        def report(now: Trainer, speed: float) -> None:
            bar.set_postfix_str(f"loss {now.history[-1]['train_loss']:.3f}, {speed:,.0f} tokens/s")
            bar.update()

        trainer.run(report)
    seconds = max(1e-9, time.monotonic() - begin)
    done = options.steps - first
    model.eval()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": options.steps * trainer.tokens_per_step,
        "valid_loss": trainer.history[-1]["valid_loss"],
        "tokens_per_second": done * trainer.tokens_per_step / seconds,
        "curve": [[e["step"], e["valid_loss"]] for e in trainer.history if "valid_loss" in e],
    }


def options_of(config: Any, seed: int, context: int | None = None) -> TrainOptions:
    """The training options that an experiment's config names, one seed and length."""
    return TrainOptions(
        steps=config.steps, batch=config.batch, context=context or config.context, lr=config.lr,
        warmup=min(config.warmup, config.steps), seed=seed,
        eval_every=max(1, config.steps // 10), precision="auto",
    )  # fmt: skip
