"""A Llama-like decoder whose attention is an argument: the teacher, its baselines, the student.

The trunk (embedding, norms, projections, MLP) is the same for all of them; what happens between
the projections and o_proj is a function `Attend`. Shapes: B sequences, T tokens, d width, H query
heads, G key-value heads, v = head width. Rotation is half-split (Hugging Face layout).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gma_torch.layers import rms_norm
from gma_torch.rope import rope_table, turn


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder with RoPE over the whole head width.

    Attributes:
        tied: whether the embedding is the head too.
        sliding_window: newest tokens that its attention sees (Mistral); None: all.
        positions: tokens of the longest text that it was made for; None: unknown.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool = True
    sliding_window: int | None = None
    positions: int | None = None


@dataclass
class Heads:
    """What one attention layer is given; `attend` may ignore what it does not need.

    Attributes:
        x: [B, T, d] the normed layer input.
        q_rot: [B, T, H, v], k: [B, T, G, v] not rotated, k_rot: [B, T, G, v], value: [B, T, G, v].
    """

    x: Tensor
    q_rot: Tensor
    k: Tensor
    k_rot: Tensor
    value: Tensor


# (layer index, its inputs) -> attention output [B, T, H, v].
Attend = Callable[[int, Heads], Tensor]


def full_attention(_layer: int, heads: Heads) -> Tensor:
    """Causal softmax attention over everything: the teacher."""
    out = F.scaled_dot_product_attention(
        heads.q_rot.transpose(1, 2),
        heads.k_rot.transpose(1, 2),
        heads.value.transpose(1, 2),
        is_causal=True,
        enable_gqa=True,
    )
    return out.transpose(1, 2)


def window_attention(window: int, sinks: int, block: int = 256) -> Attend:
    """Softmax attention over the newest `window` tokens and the first `sinks` tokens."""

    def attend(_layer: int, heads: Heads) -> Tensor:
        share = heads.q_rot.shape[2] // heads.k_rot.shape[2]
        q = heads.q_rot.transpose(1, 2)
        k = heads.k_rot.transpose(1, 2).repeat_interleave(share, 1)
        value = heads.value.transpose(1, 2).repeat_interleave(share, 1)
        parts = []
        for begin in range(0, q.shape[2], block):
            end = min(begin + block, q.shape[2])
            low = max(sinks, begin - window + 1) if begin - window + 1 > 0 else 0
            first = sinks if low > 0 else 0
            row = torch.arange(begin, end).unsqueeze(1)
            col = torch.cat([torch.arange(first), torch.arange(low, end)])
            mask = (col <= row) & ((col > row - window) | (col < sinks))
            keys = torch.cat([k[:, :, :first], k[:, :, low:end]], 2)
            values = torch.cat([value[:, :, :first], value[:, :, low:end]], 2)
            parts.append(
                F.scaled_dot_product_attention(q[:, :, begin:end], keys, values, attn_mask=mask)
            )
        return torch.cat(parts, 2).transpose(1, 2)

    return attend


class CachedAttention:
    """Softmax attention that keeps keys and values from call to call: for decoding.

    Args:
        window: newest tokens that are seen, None for all; sinks: first tokens that are seen too.
    """

    def __init__(self, window: int | None = None, sinks: int = 0) -> None:
        self._window, self._sinks = window, sinks
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def tokens(self) -> int:
        """Tokens fed so far: the position of the next one."""
        return self._cache[0][0].shape[2] if self._cache else 0

    def __call__(self, layer: int, heads: Heads) -> Tensor:
        """As `Attend`, for the tokens after those of the calls before."""
        k, value = heads.k_rot.transpose(1, 2), heads.value.transpose(1, 2)
        if layer in self._cache:
            old_k, old_value = self._cache[layer]
            k, value = torch.cat([old_k, k], 2), torch.cat([old_value, value], 2)
        self._cache[layer] = (k, value)
        total, fed = k.shape[2], heads.q_rot.shape[1]
        row = torch.arange(total - fed, total).unsqueeze(1)
        col = torch.arange(total)
        mask = col <= row
        if self._window is not None:
            mask = mask & ((col > row - self._window) | (col < self._sinks))
        out = F.scaled_dot_product_attention(
            heads.q_rot.transpose(1, 2), k, value, attn_mask=mask, enable_gqa=True
        )
        return out.transpose(1, 2)


class Llama:
    """The trunk, with weights under their Hugging Face names, and a forward pass.

    Norms and the residual stream are float32; matrix products run in `compute` (bfloat16 is about
    three times as fast as float32 on CPUs that have it, and good enough for teacher targets).

    Biases are added where `weights` has them (q, k and v of Qwen2). `adapters` maps names of
    matrices to low-rank updates (A [rank, in], B [out, rank]): the matrix that counts is W + B A.
    """

    def __init__(
        self,
        config: LlamaConfig,
        weights: dict[str, Tensor],
        compute: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        self.compute = compute
        self.adapters: dict[str, tuple[Tensor, Tensor]] = {}
        self.weights = {
            name: w.float() if w.dim() == 1 else w.to(compute) for name, w in weights.items()
        }

    @property
    def attention(self) -> Attend:
        """The model's own attention."""
        window = self.config.sliding_window
        return full_attention if window is None else window_attention(window, 0)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        bias = self.weights.get(name.removesuffix("weight") + "bias")
        out = F.linear(x.to(self.compute), self.weights[name],
                       None if bias is None else bias.to(self.compute))  # fmt: skip
        if name not in self.adapters:
            return out
        down, up = self.adapters[name]
        return out.float() + F.linear(F.linear(x.float(), down), up)

    def project(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor) -> Heads:
        """The heads of one layer from its normed input x [B, T, d]; all in float32."""
        c, p = self.config, f"model.layers.{layer}.self_attn."
        q = self._linear(x, p + "q_proj.weight").float().unflatten(-1, (c.num_heads, c.head_dim))
        k = self._linear(x, p + "k_proj.weight").float().unflatten(-1, (c.num_kv_heads, c.head_dim))
        value = self._linear(x, p + "v_proj.weight").float()
        value = value.unflatten(-1, (c.num_kv_heads, c.head_dim))
        return Heads(x, turn(q, cos, sin), k, turn(k, cos, sin), value)

    def output(self, layer: int, heads_out: Tensor) -> Tensor:
        """o_proj: [B, T, H, v] -> [B, T, d] in float32."""
        name = f"model.layers.{layer}.self_attn.o_proj.weight"
        return self._linear(heads_out.flatten(-2), name).float()

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        p = f"model.layers.{layer}.mlp."
        gate = F.silu(self._linear(x, p + "gate_proj.weight"))
        return self._linear(
            gate * self._linear(x, p + "up_proj.weight"), p + "down_proj.weight"
        ).float()

    def hidden(self, tokens: Tensor, attend: Attend, start: int = 0) -> Tensor:
        """Tokens [B, T] at positions start.. -> last normed hidden state [B, T, d], float32."""
        c = self.config
        cos, sin = rope_table(
            start, tokens.shape[1], c.head_dim, c.rope_theta, device=tokens.device
        )
        x = F.embedding(tokens, self.weights["model.embed_tokens.weight"]).float()
        for layer in range(c.num_layers):
            x = self.block(layer, x, cos, sin, attend)
        return self.final_norm(x)

    def block(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """One layer: [B, T, d] -> [B, T, d], float32."""
        p, eps = f"model.layers.{layer}.", self.config.rms_norm_eps
        normed = rms_norm(x, self.weights[p + "input_layernorm.weight"], eps)
        x = x + self.output(layer, attend(layer, self.project(layer, normed, cos, sin)))
        normed = rms_norm(x, self.weights[p + "post_attention_layernorm.weight"], eps)
        return x + self._mlp(layer, normed)

    def final_norm(self, x: Tensor) -> Tensor:
        """What the head is given."""
        c = self.config
        return rms_norm(x, self.weights["model.norm.weight"], c.rms_norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., vocab] in float32."""
        name = "model.embed_tokens.weight" if self.config.tied else "lm_head.weight"
        return self._linear(hidden, name).float()
