"""End-to-end distillation: the whole student learns the teacher's next-token distribution.

Trained are the mixers of all layers and, with `adapter_rank`, low-rank updates B A of the attention
projections q, k, v, o. The loss of a position is

    kl * KL(teacher || student) + next_token * cross entropy of the token that follows

and in answers about facts (facts.py) answers * that cross entropy alone.

Memory is bounded: a layer's activations are recomputed in the backward pass (kept are its inputs,
[B, T, d] a layer), and the vocabulary is met `_PIECE` positions at a time, each piece's gradient
taken at once. Sequences go on where the layer-wise part ended; the step number is the position in
the data, so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from gma_torch.convert.base import ConvertError
from gma_torch.convert.data import Mixture
from gma_torch.convert.facts import FactChats
from gma_torch.convert.mixer import TransferMixer
from gma_torch.convert.recipe import Recipe
from gma_torch.convert.transfer import grouped, late_read
from gma_torch.joint import window_read
from gma_torch.llama import Attend, Heads, Llama
from gma_torch.rope import rope_table

_PIECE = 128
_SAVE_SECONDS = 45.0
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def student_attention(mixers: list[TransferMixer], windows: list[int]) -> Attend:
    """The joint read of whole sequences from their start."""

    def attend(layer: int, heads: Heads) -> Tensor:
        q, k, k_rot, value = grouped(heads)
        window = windows[layer]
        out = late_read(mixers[layer], q, k, k_rot, value, window)
        if window:
            parts = [x[:, :, :window] for x in (k_rot, value)]
            _, early = window_read(q[..., :window, :], *parts, window)
            out = torch.cat([early, out], dim=-2)
        return out.permute(0, 3, 1, 2, 4).flatten(2, 3)

    return attend


class Distill:
    """The state of the end-to-end part.

    Args:
        teacher, student: trunks with the base's weights; may be the same object.
        mixers: as the layer-wise part left them; trained further in place.
        first: number of the first sequence.
        facts: for a recipe with `answers`.
    """

    def __init__(
        self, recipe: Recipe, teacher: Llama, student: Llama, data: Mixture,
        mixers: list[TransferMixer], first: int, facts: FactChats | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.part, self.data, self.first = recipe, recipe.end_to_end, data, first
        self.facts = facts
        self.teacher, self.mixers = teacher, mixers
        self.student = Llama.__new__(Llama)  # shares the weights, has adapters of its own
        self.student.__dict__.update(student.__dict__, adapters={})
        self.adapters = self.student.adapters
        self._add_adapters()
        self.attend = student_attention(mixers, recipe.windows(student.config.num_layers))
        self.optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    def _add_adapters(self) -> None:
        rank = self.part.adapter_rank
        gen = torch.Generator().manual_seed(self.recipe.seed)
        for layer in range(self.student.config.num_layers if rank else 0):
            for kind in _PROJECTIONS:
                name = f"model.layers.{layer}.self_attn.{kind}.weight"
                out, inner = self.student.weights[name].shape
                down = torch.randn(rank, inner, generator=gen) / math.sqrt(inner)
                up = torch.zeros(out, rank)  # the student begins as the layer-wise part left it
                self.adapters[name] = (down.requires_grad_(), up.requires_grad_())

    @torch.no_grad()
    def start_from(self, updates: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Takes low-rank updates (A, B) of an earlier run, of at most `adapter_rank`."""
        for name, (down, up) in updates.items():
            rank = down.shape[0]
            if rank > self.part.adapter_rank:
                raise ConvertError(f"updates of {name} have rank {rank}, the recipe's adapter_rank "
                                   f"is {self.part.adapter_rank}")  # fmt: skip
            mine = self.adapters[name]
            mine[0][:rank] = down
            mine[1][:, :rank] = up

    def parameters(self) -> dict[str, Tensor]:
        """Everything that is trained, by name."""
        out = {
            f"{layer}.{name}": value
            for layer, mixer in enumerate(self.mixers)
            for name, value in mixer.named_parameters()
        }
        for name, (down, up) in self.adapters.items():
            out |= {f"{name}.a": down, f"{name}.b": up}
        return out

    def _groups(self) -> list[dict]:
        part = self.part
        scalars = [p for m in self.mixers for p in m.scalars()]
        known = {id(p) for p in scalars}
        plain = [p for m in self.mixers for p in m.parameters() if id(p) not in known]
        groups = [
            {"params": plain, "rate": part.learning_rate},
            {"params": scalars, "rate": part.learning_rate * self.recipe.scalar_rate},
            {"params": [x for pair in self.adapters.values() for x in pair],
             "rate": part.adapter_learning_rate},
        ]  # fmt: skip
        return [{**group, "lr": group["rate"]} for group in groups if group["params"]]

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.part.tokens() // self.part.steps

    def memory_bytes(self) -> int:
        """About what training takes beyond the weights that are already in memory.

        The factor covers what autograd and the allocator keep besides: measured 1.16 GB on the
        default base, sequences of 1,024, where the sum is 0.40 GB.
        """
        c, part = self.student.config, self.part
        rows = part.sequences * part.length
        kept = 4 * rows * c.hidden_size * (c.num_layers + 4)
        window = max(self.recipe.windows(c.num_layers))
        heads = 4 * rows * c.num_heads * (6 * (64 + window) + 24 * self.recipe.components)
        mlp = 4 * rows * 6 * c.intermediate_size
        pieces = 4 * part.sequences * _PIECE * c.vocab_size * 6
        trained = 4 * 4 * sum(p.numel() for p in self.parameters().values())
        return 3 * (kept + heads + mlp + pieces + trained)

    def _hidden(self, tokens: Tensor) -> Tensor:
        """The student's last normed hidden state [B, T, d], layer by layer recomputed."""
        c = self.student.config
        cos, sin = rope_table(0, tokens.shape[1], c.head_dim, c.rope_theta)
        x = F.embedding(tokens, self.student.weights["model.embed_tokens.weight"]).float()
        for layer in range(c.num_layers):
            x = checkpoint(self.student.block, layer, x, cos, sin, self.attend, use_reentrant=False)
        return self.student.final_norm(x)

    def losses(
        self, tokens: Tensor, *, backward: float | None, answers: Tensor | None = None
    ) -> tuple[float, float]:
        """Mean KL and cross entropy of a batch [B, T + 1].

        Args:
            backward: factor of the gradients that are added to the parameters; None: none are.
            answers: [B, T + 1], tokens that are learnt as they are, not from the teacher.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        with torch.no_grad():
            taught = self.teacher.hidden(inputs, self.teacher.attention)
        with torch.set_grad_enabled(backward is not None):
            hidden = self._hidden(inputs)
        leaf = hidden.detach().requires_grad_(backward is not None)
        count, totals = targets.numel(), [0.0, 0.0]
        asked = torch.zeros_like(targets, dtype=torch.bool) if answers is None else answers[:, 1:]
        of_teacher = self.part.kl * ~asked
        of_token = torch.where(asked, self.part.answers, self.part.next_token)
        for begin in range(0, inputs.shape[1], _PIECE):
            span = slice(begin, begin + _PIECE)
            with torch.no_grad():
                want = torch.log_softmax(self.teacher.logits(taught[:, span]), -1)
            with torch.set_grad_enabled(backward is not None):
                got = torch.log_softmax(self.student.logits(leaf[:, span]), -1)
                kl = F.kl_div(got, want, reduction="none", log_target=True).sum(-1)
                entropy = -got.gather(-1, targets[:, span].unsqueeze(-1)).squeeze(-1)
                if backward is not None:
                    loss = (of_teacher[:, span] * kl + of_token[:, span] * entropy).sum()
                    (loss * (backward / count)).backward()
            totals[0] += float(kl.detach().sum())
            totals[1] += float(entropy.detach().sum())
        if backward is not None:
            hidden.backward(leaf.grad)
        return totals[0] / count, totals[1] / count

    def _row(self, number: int) -> tuple[list[int], list[bool]]:
        """Sequence `number` and which of its tokens are answers."""
        length = self.part.length + 1
        if self.part.answers > 0 and self.facts is not None and number % 4 == 3:
            return self.facts.sequence(number, length)
        return self.data.sequence(number, length), [False] * length

    def train_step(self, done: float = 0.0) -> tuple[float, float]:
        """One update; returns its mean KL and cross entropy.

        Args:
            done: share of the time that is used up; the cosine takes the share of steps if more.
        """
        part, recipe = self.part, self.recipe
        done = max(done, self.step / part.steps)
        share = recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
        share *= min(1.0, (self.step + 1) / max(1, part.steps // 20))  # warms up
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * share
        self.optimizer.zero_grad(set_to_none=True)
        kl = entropy = 0.0
        at = self.first + self.step * part.accumulate * part.sequences
        for n in range(part.accumulate):
            numbers = range(at + n * part.sequences, at + (n + 1) * part.sequences)
            rows = [self._row(number) for number in numbers]
            tokens, answers = (torch.tensor(x) for x in zip(*rows, strict=True))
            one = self.losses(tokens, backward=1 / part.accumulate, answers=answers)
            kl, entropy = kl + one[0] / part.accumulate, entropy + one[1] / part.accumulate
        if not math.isfinite(kl + entropy):
            raise ConvertError(
                f"the loss is {kl + entropy} at step {self.step + 1} of end_to_end: try lower "
                "learning rates; the last checkpoint is intact"
            )
        torch.nn.utils.clip_grad_norm_(list(self.parameters().values()), recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.history.append({"tokens": self.tokens, "kl": kl, "cross_entropy": entropy})
        return kl, entropy

    def save(self, path: Path) -> None:
        """Writes everything needed to go on, atomically."""
        tensors = {}
        for name, value in self.parameters().items():
            tensors[f"weight/{name}"] = value.detach().contiguous()
            for key, moment in self.optimizer.state[value].items():
                tensors[f"{key}/{name}"] = moment.contiguous()
        rest = {"part": asdict(self.part), "step": self.step, "seconds": self.seconds,
                "first": self.first, "history": self.history}  # fmt: skip
        save_file(tensors, path.with_suffix(".new"), metadata={"distill": json.dumps(rest)})
        os.replace(path.with_suffix(".new"), path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Continues from a checkpoint of the same recipe."""
        with safe_open(path, framework="pt") as file:
            rest = json.loads(file.metadata()["distill"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if rest["part"] != asdict(self.part) or rest["first"] != self.first:
            raise ConvertError(f"{path}: made with another recipe: use another --work folder")
        for name, value in self.parameters().items():
            value.copy_(tensors[f"weight/{name}"])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors]
            if keys:
                self.optimizer.state[value] = {key: tensors[f"{key}/{name}"] for key in keys}
        self.step, self.seconds, self.history = rest["step"], rest["seconds"], rest["history"]

    def run(self, path: Path, minutes: float | None = None) -> None:
        """Trains to the last step, with checkpoints at `path`, from the one there if there is.

        Args:
            minutes: of all calls together; the cosine ends there if the steps would take longer.
        """
        if path.exists():
            self.load(path)
        begun, saved, spent = time.monotonic(), time.monotonic(), self.seconds
        with tqdm(total=self.part.tokens(), initial=self.tokens, unit="tok", desc="end to end",
                  dynamic_ncols=True) as bar:  # fmt: skip
            while self.step < self.part.steps:
                used = 0.0 if minutes is None else self.seconds / (60 * minutes)
                if used >= 1:
                    break
                kl, entropy = self.train_step(used)
                bar.update(self.tokens - bar.n)
                bar.set_postfix_str(f"KL {kl:.4f}, cross entropy {entropy:.3f}")
                self.seconds = spent + time.monotonic() - begun
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self.save(path)
                    saved = time.monotonic()
        self.save(path)
