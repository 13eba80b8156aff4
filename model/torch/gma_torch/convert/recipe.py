"""The settings of a conversion, read from JSON and checked key by key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Stage:
    """A part of the run: batches of `sequences` x `length` tokens."""

    sequences: int
    length: int
    steps: int


@dataclass
class EndToEnd:
    """The second part: `steps` updates of `accumulate` batches of `sequences` x `length` tokens.

    Attributes:
        adapter_rank: of the updates of q, k, v and o; 0 trains the mixers alone.
        kl, next_token: weights of the two losses. learning_rate: of the mixers.
        answers: if above 0, every fourth sequence is a chat of facts.py, and this is the weight of
            the cross entropy of its answers, where the teacher is not asked.
    """

    steps: int = 100
    accumulate: int = 4
    sequences: int = 1
    length: int = 1024
    adapter_rank: int = 8
    learning_rate: float = 1e-3
    adapter_learning_rate: float = 5e-4
    kl: float = 1.0
    next_token: float = 0.1
    answers: float = 0.0
    student_dtype: str = "float32"

    def tokens(self) -> int:
        """Tokens of the whole part."""
        return self.steps * self.accumulate * self.sequences * self.length


@dataclass
class Recipe:
    """All settings of a conversion; deploy/models/default/recipe.json holds the default model's.

    Training is with `window`, one number for all layers or one a layer. The model directory may
    get other windows, `layer_windows`, without retraining: a slot stands for its tokens whatever
    their age. `end_to_end`, if given, is a second part after the layer-wise one (distill.py).
    `slot_horizon` is the model directory's (0: off); absent, the base's positions.
    """

    window: int | list[int] = 64
    layer_windows: list[int] | None = None
    slot_horizon: int | None = None
    components: int = 64
    routing_dim: int = 32
    initial_beta: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4])
    initial_precision: float = 2.0
    start_sequences: int = 8
    start_length: int = 1024
    stages: list[Stage] = field(default_factory=list)
    cycles: int = 1
    learning_rate: float = 1e-2
    scalar_rate: float = 4.0
    final_rate: float = 0.02
    clip: float = 1.0
    seed: int = 0
    teacher_dtype: str = "bfloat16"
    threads: int = 2
    checkpoint_seconds: float = 180.0
    end_to_end: EndToEnd | None = None

    def windows(self, layers: int) -> list[int]:
        """The window of each layer while training."""
        windows = self.window if isinstance(self.window, list) else [self.window] * layers
        if len(windows) != layers:
            raise ValueError(f"window of recipe lists {len(windows)} values, must be {layers}")
        lengths = [s.length for s in self.stages] + [self.start_length]
        lengths += [self.end_to_end.length] if self.end_to_end else []
        if max(windows) >= min(lengths):
            raise ValueError(
                f"window of recipe is {max(windows)}, must be below the shortest sequence, "
                f"{min(lengths)} tokens"
            )
        return windows

    def final_windows(self) -> int | list[int]:
        """The windows of the model directory."""
        return self.layer_windows or self.window

    def horizon(self, positions: int | None) -> int:
        """`slot_horizon` of the model directory for a base with so many positions; 0: off."""
        return positions or 0 if self.slot_horizon is None else self.slot_horizon

    @staticmethod
    def load(path: Path) -> Recipe:
        """Reads a recipe; ValueError names file, key, value and what it must be."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check("recipe", content, Recipe())
            stages = content.get("stages", [])
            for number, stage in enumerate(stages):
                _check(f"stages[{number}]", stage, Stage(1, 1, 1), complete=True)
            if content.get("end_to_end") is not None:
                _check("end_to_end", content["end_to_end"], EndToEnd())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        part = content.get("end_to_end")
        content["end_to_end"] = None if part is None else EndToEnd(**part)
        return Recipe(**{**content, "stages": [Stage(**stage) for stage in stages]})

    def schedule(self) -> list[Stage]:
        """The stage of each step: all stages in turn, `cycles` times."""
        return [stage for stage in self.stages for _ in range(stage.steps)] * self.cycles

    def tokens(self) -> int:
        """Tokens of the whole run."""
        return sum(s.sequences * s.length for s in self.schedule())


_DTYPES = ("float32", "bfloat16")


def _check(
    what: str, content: Any, example: Recipe | Stage | EndToEnd, complete: bool = False
) -> None:
    """Checks the keys of an object, and its values by those of `example`."""
    if not isinstance(content, dict):
        raise ValueError(f"{what} is {repr(content)[:64]}, must be an object")
    known = vars(example)
    if complete and (missing := known.keys() - content.keys()):
        raise ValueError(f"{what} has no key {min(missing)}, must have {', '.join(known)}")
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"unknown key {name} in {what}, known are {', '.join(known)}")
        wanted, kinds, least = "a number of at least 0", (int, float), 0
        if isinstance(known[name], int) or name == "slot_horizon":
            least = 0 if name in ("seed", "window", "adapter_rank", "slot_horizon") else 1
            wanted, kinds = f"an integer of at least {least}", (int,)
        if name == "end_to_end":
            continue  # checked as an object of its own
        if name == "window" and isinstance(value, list):
            wanted, right = (
                "a list of integers of at least 0",
                all(type(one) is int and one >= 0 for one in value),
            )
        elif name.endswith("_dtype"):
            wanted, right = f"one of {', '.join(_DTYPES)}", value in _DTYPES
        elif kinds != (int,) and (isinstance(known[name], list) or known[name] is None):
            wanted, right = "a list", isinstance(value, list)
        else:
            right = type(value) in kinds and value >= least
        if not right and not (value is None and known[name] is None):
            raise ValueError(f"{name} of {what} is {repr(value)[:64]}, must be {wanted}")
