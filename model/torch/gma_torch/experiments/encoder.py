"""A bidirectional classifier whose mixer is GMA, softmax attention or linear attention.

    x = embed(tokens) + sinusoids;  per layer  x += mixer(norm(x), mask),  x += mlp(norm(x))
    logits = head(mean over the tokens of norm(x))

Shapes: B texts, T tokens, d width; mask [B, T] is False for padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.bidirectional import BidirectionalGma
from gma_torch.layers import RmsNorm, SwiGlu
from gma_torch.responsibilities import omega_of_variance

PADDING = 0


class BidirectionalSoftmax(nn.Module):
    """Softmax attention of every token over all tokens (SDPA)."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(width, heads * head_dim, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, d], mask [B, T] -> [B, T, d]."""
        return self.o_proj(self._mix(*self._heads(x), mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> list[Tensor]:
        return [
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        ]

    def _mix(self, q: Tensor, k: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, value, attn_mask=mask[:, None, None])


class BidirectionalLinear(BidirectionalSoftmax):
    """Linear attention with elu + 1 over all tokens."""

    def _mix(self, q: Tensor, k: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        phi_q, phi_k = F.elu(q) + 1, (F.elu(k) + 1) * mask[:, None, :, None]
        total = phi_q @ phi_k.sum(2).unsqueeze(-1)
        return (phi_q @ (phi_k.transpose(-1, -2) @ value)) / total.clamp_min(1e-12)


def _gma(width: int, heads: int, head_dim: int, components: int, routing: int) -> nn.Module:
    """With the start of docs/MATH.md 3: queries and keys routed alike, sigma^2 = sqrt(r)/2."""
    mixer = BidirectionalGma(width, heads, components, routing, head_dim)
    with torch.no_grad():
        mixer.component_omega.fill_(
            omega_of_variance(math.sqrt(routing) / 2, routing, mixer.var_param)
        )
        mixer.route_k_proj.weight.normal_(0, 1 / math.sqrt(width))
        mixer.route_q_proj.weight.copy_(mixer.route_k_proj.weight)
    return mixer


MIXERS: dict[str, Callable[..., nn.Module]] = {
    "gma": _gma,
    "softmax": lambda d, heads, v, _k, _r: BidirectionalSoftmax(d, heads, v),
    "linear_elu": lambda d, heads, v, _k, _r: BidirectionalLinear(d, heads, v),
}


class Encoder(nn.Module):
    """Tokens [B, T], `PADDING` where a text has ended -> logits [B, classes]."""

    def __init__(
        self, mixer: str, vocabulary: int, classes: int, *, width: int, layers: int, heads: int,
        intermediate: int, components: int, routing: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        sizes = (width, heads, width // heads, components, routing)
        self.mixers = nn.ModuleList(MIXERS[mixer](*sizes) for _ in range(layers))
        self.mlps = nn.ModuleList(SwiGlu(width, intermediate) for _ in range(layers))
        self.norms = nn.ModuleList(RmsNorm(width, 1e-5) for _ in range(2 * layers + 1))
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        mask = tokens != PADDING
        x = self.embed_tokens(tokens)
        x = x + 0.02 * _sinusoids(tokens.shape[1], x.shape[-1], x)
        for n, (mixer, mlp) in enumerate(zip(self.mixers, self.mlps, strict=True)):
            x = x + mixer(self.norms[2 * n](x), mask)
            x = x + mlp(self.norms[2 * n + 1](x))
        x = self.norms[-1](x) * mask.unsqueeze(-1)
        return self.head(x.sum(1) / mask.sum(1, keepdim=True).clamp_min(1))


def _sinusoids(tokens: int, width: int, like: Tensor) -> Tensor:
    """[T, d] sines and cosines of wave lengths from 2 pi to 10,000 * 2 pi."""
    frequency = 10000.0 ** (-torch.arange(width // 2, device=like.device) / (width // 2))
    angle = torch.arange(tokens, device=like.device).unsqueeze(1) * frequency
    return F.pad(torch.cat([angle.sin(), angle.cos()], -1), (0, width % 2)).to(like.dtype)
