"""The training loop: AdamW, cosine schedule, gradient clipping, exact resume."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gma_torch.checkpoint import save_model
from gma_torch.decoder import GmaDecoder
from gma_torch.train.curve import draw_curve
from gma_torch.train.data import BatchOrder, Corpus, valid_batches
from gma_torch.train.errors import TrainError
from gma_torch.train.options import TrainOptions

# Parameters of few entries and great leverage learn faster (docs/MATH.md 11.2).
_SCALARS = (
    "component_omega",
    "prior_logits",
    "slot_bias",
    "slot_scale",
    "forget_bias",
    "forget_a_log",
    "forget_beta",
    "dt_bias",
    ".a_log",
    ".skip",
)
_UNDECAYED = ("component_mean", "conv_weight", "norm.weight")
_CHECKPOINT = "training"


def parameter_groups(model: GmaDecoder, options: TrainOptions) -> list[dict[str, Any]]:
    """AdamW's groups; `factor` times the scheduled rate is a group's rate."""
    matrices, gains, scalars = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith(_SCALARS):
            scalars.append(parameter)
        elif name.endswith(_UNDECAYED) or "layernorm" in name:
            gains.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay, "factor": 1.0},
        {"params": gains, "weight_decay": 0.0, "factor": 1.0},
        {"params": scalars, "weight_decay": 0.0, "factor": options.scalar_lr_factor},
    ]
    return [group for group in groups if group["params"]]


class Trainer:
    """One training run, which writes a model directory and the checkpoints in it.

    Setting `stop_requested` ends `run` after the step under way. `history` holds one entry a step
    with its training loss, and the validation loss where it was measured, in nats a token.
    """

    def __init__(
        self,
        model: GmaDecoder,
        corpus: Corpus,
        options: TrainOptions,
        out: Path,
        device: torch.device,
    ) -> None:
        self.model = model.to(device)
        self.corpus, self.options, self.out, self.device = corpus, options, out, device
        self.order = self._order()
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, options), lr=options.lr, betas=(0.9, 0.95), eps=1e-8
        )
        self.step = 0
        self.stop_requested = False
        self.history: list[dict[str, float]] = []
        wanted = options.precision
        self._half = wanted == "bf16" or (wanted == "auto" and device.type == "cuda")

    def _order(self) -> BatchOrder:
        rows = self.options.batch * self.options.accumulate
        return BatchOrder(self.corpus.train, self.options.context, rows, self.options.seed)

    def _save_due(self) -> bool:
        return self.step % self.options.save_every == 0

    def run(self, report: Callable[[Trainer, float], None], stop_after: int | None = None) -> None:
        """Trains to the last step, or for `stop_after` steps.

        `report` is called after each step with the trainer and the tokens a second so far.
        """
        first, begin = self.step, time.monotonic()
        last = self.options.steps if stop_after is None else self.step + stop_after
        while self.step < min(last, self.options.steps) and not self.stop_requested:
            entry: dict[str, float] = {"step": self.step + 1, "train_loss": self.train_step()}
            self.step += 1
            final = self.step == self.options.steps
            if final or self.step % self.options.eval_every == 0:
                entry["valid_loss"] = self.validate()
            self.history.append(entry)
            if final or self._save_due():
                self.save()
            elapsed = max(1e-9, time.monotonic() - begin)
            report(self, (self.step - first) * self.tokens_per_step / elapsed)

    @property
    def tokens_per_step(self) -> int:
        """Tokens whose loss makes one update."""
        return self.options.batch * self.options.accumulate * self.options.context

    def train_step(self) -> float:
        """One update; returns its mean loss."""
        self.model.train()
        rate = self.options.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in self.order.batch(self.step).split(self.options.batch):
            loss = self._loss(part) / self.options.accumulate
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise TrainError(
                f"the loss is {total} at step {self.step + 1}: try a lower --lr or more --warmup; "
                "the last checkpoint is intact"
            )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self.optimizer.step()
        return total

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss on the validation tokens."""
        self.model.eval()
        total, count = 0.0, 0
        options = self.options
        for part in valid_batches(
            self.corpus.valid, options.context, options.batch, options.valid_tokens
        ):
            tokens = part.shape[0] * (part.shape[1] - 1)
            total += float(self._loss(part)) * tokens
            count += tokens
        return total / count

    def _loss(self, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            logits = self.model(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    def save(self) -> None:
        """Writes the model, the loss curve and a checkpoint; a crash leaves the old one."""
        self._write_products()
        temporary, final = self.out / (_CHECKPOINT + ".tmp"), self.out / _CHECKPOINT
        old = self.out / (_CHECKPOINT + ".old")
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir()
        save_file(self._tensors(), temporary / "state.safetensors")
        state = {
            "step": self.step,
            "options": self.options.to_dict(),
            "data": self.corpus.digest(),
            "history": self.history,
        }
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def _write_products(self) -> None:
        """What the run is for: the model directory and its loss curve."""
        save_model(self.model, self.out)
        draw_curve(self.history, self.tokens_per_step, self.out / "loss.png")

    def _tensors(self) -> dict[str, Tensor]:
        """Weights and the optimizer's moments, by parameter name."""
        tensors = {f"weight.{n}": p.detach() for n, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        return {name: value.cpu().contiguous() for name, value in tensors.items()}

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continues where `save` left off."""
        if state["data"] != self.corpus.digest():
            raise TrainError("the training or validation text is not what the run began with")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"weight.{name}"])
                if f"step.{name}" not in tensors:
                    continue  # never had a gradient: --context is not longer than the window
                self.optimizer.state[parameter] = {
                    "step": tensors[f"step.{name}"],  # AdamW keeps it on the CPU
                    **{
                        key: tensors[f"{key}.{name}"].to(self.device)
                        for key in ("exp_avg", "exp_avg_sq")
                    },
                }
        self.step, self.history = state["step"], state["history"]


def read_checkpoint(out: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state and the tensors of the last checkpoint in a model directory."""
    for folder in (out / _CHECKPOINT, out / (_CHECKPOINT + ".old")):
        if not folder.exists():
            continue
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return state, load_file(folder / "state.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise TrainError(f"{folder}: {error}") from None
    raise TrainError(f"{out}: no checkpoint to resume from")
