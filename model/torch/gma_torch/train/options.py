"""What a training run is made of; saved with each checkpoint, so that it can resume."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gma_torch.tokenizer import SMALLEST_VOCABULARY
from gma_torch.train.errors import TrainError


def require_at_least(name: str, value: int | None, least: int) -> None:
    """TrainError that names the flag; None is a flag that was not given."""
    if value is not None and value < least:
        raise TrainError(f"--{name} is {value}, must be at least {least}")


@dataclass(frozen=True)
class TrainOptions:
    """Options of `gma-train`; the command line documents them."""

    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    valid_share: float = 0.05
    valid_tokens: int = 100_000
    tokenizer: str | None = None
    vocab_size: int = 4096
    preset: str = "from_scratch"
    config: str | None = None
    hidden_size: int = 256
    layers: int = 6
    heads: int = 4
    memory_heads: int | None = None
    head_dim: int | None = None
    components: int = 64
    routing_dim: int = 16
    intermediate_size: int | None = None
    steps: int = 2000
    batch: int = 16
    accumulate: int = 1
    context: int = 512
    lr: float = 1e-3
    scalar_lr_factor: float = 5.0
    warmup: int = 100
    min_lr_share: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    precision: str = "auto"
    seed: int = 0
    eval_every: int = 200
    save_every: int = 200

    def validate(self) -> None:
        """TrainError names the first option that is out of range."""
        at_least_one = (
            "valid_tokens", "hidden_size", "layers", "heads", "components", "routing_dim",
            "steps", "batch", "accumulate", "context", "eval_every", "save_every",
        )  # fmt: skip
        for name in at_least_one:
            require_at_least(name, getattr(self, name), 1)
        for name in ("memory_heads", "head_dim", "intermediate_size"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("warmup", "seed"):
            require_at_least(name, getattr(self, name), 0)
        require_at_least("vocab_size", self.vocab_size, SMALLEST_VOCABULARY)
        if not (self.config or self.head_dim) and self.hidden_size % self.heads:
            raise TrainError(
                f"--hidden_size is {self.hidden_size}, must be a multiple of --heads, which is "
                f"{self.heads}, or given with --head_dim"
            )
        for name in ("lr", "clip", "scalar_lr_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainError(f"--{name} is {value}, must be a finite number above 0")
        for name, high in (("min_lr_share", 1.0), ("weight_decay", 10.0)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise TrainError(f"--{name} is {value}, must be in [0, {high}]")
        if not 0 < self.valid_share < 1:
            raise TrainError(f"--valid_share is {self.valid_share}, must be in (0, 1)")
        if not self.train:
            raise TrainError("--train is missing: name at least one text file")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to min_lr_share of the peak."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.lr * (self.min_lr_share + (1 - self.min_lr_share) * share)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainOptions:
        """Back from JSON; unknown keys are those of another version."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(data.keys() - known)
        if unknown:
            raise TrainError(f"the checkpoint has an unknown option {unknown[0]!r}")
        return cls(**data)
