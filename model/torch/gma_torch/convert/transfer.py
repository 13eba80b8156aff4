"""Layer-wise transfer: every mixer learns its layer's attention output from the teacher's heads.

Streaming, without a cache on disk: one teacher forward a batch, and for each layer one optimiser
step of that layer's mixer on the heads it passed. The teacher runs in a thread of its own, a little
ahead: the two halves cost about the same, and two independent threads use two cores better than
one computation spread over both. Loss: squared error of the attention output through o_proj over
its variance, on the positions that the window alone does not cover.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from gma_torch.convert.data import Mixture
from gma_torch.convert.mixer import TransferMixer, start_mixer
from gma_torch.joint import merge_reads, window_read
from gma_torch.llama import Heads, Llama, full_attention
from gma_torch.rope import rope_table

_LOG = logging.getLogger(__name__)


@dataclass
class Stage:
    """A part of the run: batches of `sequences` x `length` tokens."""

    sequences: int
    length: int
    steps: int


@dataclass
class Recipe:
    """All settings of a conversion; deploy/models/default/recipe.json holds the default model's.

    Training is with one `window` for all layers. The model directory may get `layer_windows`, one
    a layer: a slot stands for its tokens whatever their age, so a wider window needs no retraining.
    """

    window: int = 64
    layer_windows: list[int] | None = None
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

    @staticmethod
    def load(path: Path) -> Recipe:
        """Reads a recipe; ValueError names file, key, value and what it must be."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check("recipe", content, Recipe())
            stages = content.get("stages", [])
            for number, stage in enumerate(stages):
                _check(f"stages[{number}]", stage, Stage(1, 1, 1), complete=True)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return Recipe(**{**content, "stages": [Stage(**stage) for stage in stages]})

    def schedule(self) -> list[Stage]:
        """The stage of each step: all stages in turn, `cycles` times."""
        return [stage for stage in self.stages for _ in range(stage.steps)] * self.cycles

    def tokens(self) -> int:
        """Tokens of the whole run."""
        return sum(s.sequences * s.length for s in self.schedule())


_DTYPES = ("float32", "bfloat16")


def _check(what: str, content: Any, example: Recipe | Stage, complete: bool = False) -> None:
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
        if isinstance(known[name], int):
            least = 0 if name in ("seed", "window") else 1
            wanted, kinds = f"an integer of at least {least}", (int,)
        if name == "teacher_dtype":
            wanted, right = f"one of {', '.join(_DTYPES)}", value in _DTYPES
        elif isinstance(known[name], list) or known[name] is None:
            wanted, right = "a list", isinstance(value, list)
        else:
            right = type(value) in kinds and value >= least
        if not right and not (value is None and known[name] is None):
            raise ValueError(f"{name} of {what} is {repr(value)[:64]}, must be {wanted}")


@dataclass
class _Lesson:
    """What the teacher hands to one layer: its heads, and the output [B, T, H, v] to learn."""

    layer: int
    heads: Heads
    target: Tensor


class _Stopped(Exception):  # noqa: N818 (not an error)
    """Ends the teacher's thread."""


def _grouped(heads: Heads) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q_rot [B, G, J, T, v]; k, k_rot, value [B, G, T, v]."""
    groups = heads.k.shape[2]
    q = heads.q_rot.unflatten(2, (groups, heads.q_rot.shape[2] // groups))
    k, k_rot, value = (x.transpose(1, 2) for x in (heads.k, heads.k_rot, heads.value))
    return q.permute(0, 2, 3, 1, 4), k, k_rot, value


class Transfer:
    """The state of a run: mixers, optimisers, the step it is at."""

    def __init__(self, recipe: Recipe, teacher: Llama, data: Mixture) -> None:
        self.recipe, self.teacher, self.data = recipe, teacher, data
        c = teacher.config
        torch.manual_seed(recipe.seed)
        self.mixers = [
            TransferMixer(c.num_kv_heads, c.num_heads // c.num_kv_heads, recipe.components,
                          recipe.routing_dim, c.head_dim)
            for _ in range(c.num_layers)
        ]  # fmt: skip
        self.optimizers = [self._optimizer(m) for m in self.mixers]
        self.step, self.sequences, self.tokens, self.seconds = 0, 0, 0, 0.0
        self.history: list[list[float]] = []

    def _optimizer(self, mixer: TransferMixer) -> torch.optim.Adam:
        scalars = {id(p) for p in mixer.scalars()}
        plain = [p for p in mixer.parameters() if id(p) not in scalars]
        return torch.optim.Adam(
            [{"params": plain, "scale": 1.0},
             {"params": mixer.scalars(), "scale": self.recipe.scalar_rate}],
            lr=self.recipe.learning_rate,
        )  # fmt: skip

    def _batch(self, first: int, sequences: int, length: int) -> Tensor:
        return torch.tensor([self.data.sequence(first + n, length) for n in range(sequences)])

    def start(self) -> None:
        """Gives every mixer its k-means++ start from one teacher pass."""
        recipe, config = self.recipe, self.teacher.config
        gen = torch.Generator().manual_seed(recipe.seed)
        cos, sin = rope_table(0, recipe.start_length, config.head_dim, config.rope_theta)

        def attend(layer: int, heads: Heads) -> Tensor:
            turn = layer % len(recipe.initial_beta)
            beta = recipe.initial_beta[turn:] + recipe.initial_beta[:turn]
            start_mixer(self.mixers[layer], heads.q_rot, heads.k, cos, sin,
                        precision=recipe.initial_precision, beta=beta, gen=gen)  # fmt: skip
            return full_attention(layer, heads)

        with torch.no_grad():
            self.teacher.hidden(self._batch(0, recipe.start_sequences, recipe.start_length), attend)
        self.sequences = recipe.start_sequences

    def _rate(self, done: float) -> float:
        low = self.recipe.final_rate
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))

    def layer_step(self, layer: int, heads: Heads, target: Tensor, rate: float) -> float:
        """One optimiser step of one layer; returns its loss."""
        recipe, mixer, optimizer = self.recipe, self.mixers[layer], self.optimizers[layer]
        q, k, k_rot, value = _grouped(heads)
        late = q[..., recipe.window :, :]
        near_lse, near = window_read(late, k_rot[:, :, 1:], value[:, :, 1:], recipe.window,
                                     ring=recipe.window - 1)  # fmt: skip
        weight = self.teacher.weights[f"model.layers.{layer}.self_attn.o_proj.weight"]
        want = target[:, recipe.window :]
        projected = F.linear(want.flatten(-2).to(weight.dtype), weight).float()
        variance = (projected - projected.mean((0, 1))).pow(2).mean()
        with torch.enable_grad():
            far_lse, far = mixer.slots(q, k, k_rot, value, recipe.window)
            out = merge_reads(near_lse, near, far_lse, far)
            gap = out.permute(0, 3, 1, 2, 4).flatten(2) - want.flatten(-2)
            error = F.linear(gap.to(weight.dtype), weight).float()
            loss = error.pow(2).mean() / variance
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mixer.parameters(), recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * group["scale"] * rate
        optimizer.step()
        return float(loss.detach())

    def train_step(self, stage: Stage, rate: float) -> list[float]:
        """One batch through the teacher and every mixer; returns the layers' losses."""
        losses: list[float] = []

        def attend(layer: int, heads: Heads) -> Tensor:
            target = full_attention(layer, heads)
            losses.append(self.layer_step(layer, heads, target, rate))
            return target

        with torch.no_grad():
            batch = self._batch(self.sequences, stage.sequences, stage.length)
            self.teacher.hidden(batch, attend)
        self._count(stage, losses)
        return losses

    def _count(self, stage: Stage, losses: list[float]) -> None:
        """Books a finished step."""
        self.step += 1
        self.sequences += stage.sequences
        self.tokens += stage.sequences * stage.length
        self.history.append([float(self.tokens), sum(losses) / len(losses), *losses])

    def _teach(self, stages: list[Stage], out: queue.Queue[_Lesson | BaseException],
               stop: threading.Event) -> None:  # fmt: skip
        """The teacher's thread: every layer's heads and targets of every batch, in order."""

        def attend(layer: int, heads: Heads) -> Tensor:
            target = full_attention(layer, heads)
            while not stop.is_set():
                try:
                    out.put(_Lesson(layer, heads, target), timeout=1.0)
                    return target
                except queue.Full:
                    continue
            raise _Stopped

        first = self.sequences
        try:
            torch.set_num_threads(max(1, self.recipe.threads // 2))
            with torch.no_grad():
                for stage in stages:
                    self.teacher.hidden(self._batch(first, stage.sequences, stage.length), attend)
                    first += stage.sequences
        except _Stopped:
            pass
        except BaseException as error:
            out.put(error)

    def _steps(self) -> Iterator[tuple[Stage, Iterator[_Lesson]]]:
        """The remaining steps, each with its layers' lessons, while the teacher works ahead."""
        stages = self.recipe.schedule()[self.step :]
        lessons: queue.Queue[_Lesson | BaseException] = queue.Queue(len(self.mixers) // 2 + 1)
        stop = threading.Event()
        thread = threading.Thread(target=self._teach, args=(stages, lessons, stop), daemon=True)
        thread.start()

        def of_step() -> Iterator[_Lesson]:
            for _ in self.mixers:
                lesson = lessons.get()
                if isinstance(lesson, BaseException):
                    raise lesson
                yield lesson

        try:
            for stage in stages:
                yield stage, of_step()
        finally:
            stop.set()
            thread.join()

    def save(self, path: Path) -> None:
        """Writes everything needed to go on, atomically: safetensors with a JSON header entry."""
        tensors, groups = {}, []
        for layer, (mixer, optimizer) in enumerate(zip(self.mixers, self.optimizers, strict=True)):
            for name, value in mixer.state_dict().items():
                tensors[f"{layer}.mixer.{name}"] = value.contiguous()
            state = optimizer.state_dict()
            groups.append(state["param_groups"])
            for number, moments in state["state"].items():
                for name, value in moments.items():
                    tensors[f"{layer}.optimizer.{number}.{name}"] = value.contiguous()
        rest = {
            "recipe": asdict(self.recipe),
            "groups": groups,
            "counters": [self.step, self.sequences, self.tokens, self.seconds],
            "history": self.history,
        }
        save_file(tensors, path.with_suffix(".new"), metadata={"transfer": json.dumps(rest)})
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint."""
        with safe_open(path, framework="pt") as file:
            rest = json.loads(file.metadata()["transfer"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for layer, (mixer, optimizer) in enumerate(zip(self.mixers, self.optimizers, strict=True)):
            weights, moments = {}, {}
            for name, value in tensors.items():
                owner, kind, key = name.split(".", 2)
                if int(owner) != layer:
                    continue
                if kind == "mixer":
                    weights[key] = value
                else:
                    number, moment = key.split(".")
                    moments.setdefault(int(number), {})[moment] = value
            mixer.load_state_dict(weights)
            optimizer.load_state_dict({"state": moments, "param_groups": rest["groups"][layer]})
        self.step, self.sequences, self.tokens, self.seconds = rest["counters"]
        self.history = rest["history"]

    def run(self, folder: Path, deadline: float | None = None) -> None:
        """Trains to the end of the schedule, with checkpoints in `folder`.

        With a deadline (seconds since the epoch) the cosine ends there if the schedule would take
        longer: progress is the larger of the shares of tokens and of time used.
        """
        total = self.recipe.tokens()
        checkpoint = folder / "checkpoint.safetensors"
        begun, saved, spent = time.time(), time.time(), self.seconds
        torch.set_num_threads(max(1, self.recipe.threads // 2))
        bar = tqdm(total=total, initial=self.tokens, unit="tok", mininterval=5.0)
        for stage, lessons in self._steps():
            done = self.tokens / total
            if deadline is not None:
                done = max(done, (time.time() - begun + spent) / (deadline - begun + spent))
            if done >= 1:
                break
            rate = self._rate(done)
            self._count(stage, [self.layer_step(x.layer, x.heads, x.target, rate) for x in lessons])
            self.seconds = spent + time.time() - begun
            bar.update(stage.sequences * stage.length)
            speed = self.tokens / self.seconds
            _LOG.info(
                "step %d tokens %d loss %.4f done %.3f speed %.0f tok/s left %.0f s",
                self.step, self.tokens, self.history[-1][1], done, speed,
                (total - self.tokens) / speed,
            )  # fmt: skip
            if time.time() - saved > self.recipe.checkpoint_seconds:
                self.save(checkpoint)
                saved = time.time()
        bar.close()
        self.save(checkpoint)
