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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from gma_torch.convert.base import ConvertError
from gma_torch.convert.data import Mixture
from gma_torch.convert.mixer import TransferMixer, start_mixer
from gma_torch.convert.recipe import Recipe, Stage
from gma_torch.convert.warm import component_use, mixers_of_delta, thinned
from gma_torch.joint import merge_reads, window_read
from gma_torch.llama import Heads, Llama
from gma_torch.rope import rope_table

_LOG = logging.getLogger(__name__)


@dataclass
class _Lesson:
    """What the teacher hands to one layer: its heads, and the output [B, T, H, v] to learn."""

    layer: int
    heads: Heads
    target: Tensor


class _Stopped(Exception):  # noqa: N818 (not an error)
    """Ends the teacher's thread."""


def grouped(heads: Heads) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q_rot [B, G, J, T, v]; k, k_rot, value [B, G, T, v]."""
    groups = heads.k.shape[2]
    q = heads.q_rot.unflatten(2, (groups, heads.q_rot.shape[2] // groups))
    k, k_rot, value = (x.transpose(1, 2) for x in (heads.k, heads.k_rot, heads.value))
    return q.permute(0, 2, 3, 1, 4), k, k_rot, value


def late_read(
    mixer: TransferMixer, q: Tensor, k: Tensor, k_rot: Tensor, value: Tensor, window: int
) -> Tensor:
    """The joint read of the positions from `window` on, whose first token has left the window.

    Shapes as in `TransferMixer.slots`; returns [B, G, J, T - window, v].
    """
    far_lse, far = mixer.slots(q, k, k_rot, value, window)
    if window == 0:
        return far
    near_lse, near = window_read(q[..., window:, :], k_rot[:, :, 1:], value[:, :, 1:], window,
                                 ring=window - 1)  # fmt: skip
    return merge_reads(near_lse, near, far_lse, far)


class Transfer:
    """The state of a run: mixers, optimisers, the step it is at."""

    def __init__(self, recipe: Recipe, teacher: Llama, data: Mixture) -> None:
        self.recipe, self.teacher, self.data = recipe, teacher, data
        c = teacher.config
        self.windows = recipe.windows(c.num_layers)
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
            spread = recipe.initial_beta  # over the memory heads, another one first in each layer
            beta = [spread[(layer + g) % len(spread)] for g in range(config.num_kv_heads)]
            start_mixer(self.mixers[layer], heads.q_rot, heads.k, cos, sin,
                        precision=recipe.initial_precision, beta=beta, gen=gen)  # fmt: skip
            return self.teacher.attention(layer, heads)

        with torch.no_grad():
            self.teacher.hidden(self._batch(0, recipe.start_sequences, recipe.start_length), attend)
        self.sequences = recipe.start_sequences

    def start_from(self, path: Path) -> None:
        """Takes the mixers of an earlier delta, its most used components if the recipe has fewer.

        The use is measured on the sequences that the k-means++ start would see.
        """
        recipe = self.recipe
        mixers = mixers_of_delta(path, self.teacher.config.num_layers)
        use = component_use(
            self.teacher, mixers, self._batch(0, recipe.start_sequences, recipe.start_length)
        )
        mixers = [thinned(m, u, recipe.components) for m, u in zip(mixers, use, strict=True)]
        for mine, given in zip(self.mixers, mixers, strict=True):
            if mine.route.shape != given.route.shape:
                raise ConvertError(f"{path}: routing_dim is {given.route.shape[1]}, the recipe's "
                                   f"is {recipe.routing_dim}")  # fmt: skip
            mine.load_state_dict(given.state_dict())
        self.sequences = recipe.start_sequences

    def _rate(self, done: float) -> float:
        low = self.recipe.final_rate
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))

    def layer_step(self, layer: int, heads: Heads, target: Tensor, rate: float) -> float:
        """One optimiser step of one layer; returns its loss."""
        recipe, mixer, optimizer = self.recipe, self.mixers[layer], self.optimizers[layer]
        window = self.windows[layer]
        q, k, k_rot, value = grouped(heads)
        weight = self.teacher.weights[f"model.layers.{layer}.self_attn.o_proj.weight"]
        want = target[:, window:]
        projected = F.linear(want.flatten(-2).to(weight.dtype), weight).float()
        variance = (projected - projected.mean((0, 1))).pow(2).mean()
        with torch.enable_grad():
            out = late_read(mixer, q, k, k_rot, value, window)
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
            target = self.teacher.attention(layer, heads)
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
            target = self.teacher.attention(layer, heads)
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
