"""What every baseline shares: the interface of `GmaMixer`, and linear attention by chunks.

Shapes: B sequences, T tokens, H query heads, G key-value heads (G divides H), m feature width,
v = value width. A mixer maps normed inputs [B, T, d] to [B, T, d] from and to a state, which is a
tuple of tensors; states are values, no call changes the one it is given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.config import GmaConfig

State = tuple[Tensor, ...]

_CHUNK = 64


class Mixer(nn.Module):
    """A causal mixer of one layer; subclasses define `initial_state`, `forward`, `state_bytes`."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__()
        self.options = config.layers[layer]
        self.heads, self.groups = config.num_attention_heads, config.num_memory_heads
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta

    def initial_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> State:
        """The state before the first token."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, state: State | None = None, position: int = 0
    ) -> tuple[Tensor, State]:
        """x [B, T, d] of the tokens at position, position + 1, ... -> [B, T, d], next state."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State, position: int) -> tuple[Tensor, State]:
        """One token [B, d]; returns [B, d] and the next state."""
        out, state = self(x.unsqueeze(1), state, position)
        return out.squeeze(1), state

    def state_bytes(self, tokens: int) -> int:
        """Bytes of a sequence's state after `tokens` tokens, in float32."""
        raise NotImplementedError


def core_dtype(x: Tensor) -> torch.dtype:
    """The recurrence runs in float32, or in float64 for a float64 model."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Gated linear attention by chunks; exact, no exponent is ever above 0.

        S_t = exp(la_t) S_{t-1} + k_t v_t^T        o_t = q_t S_t

    Args:
        query: [B, T, H, m]. key: [B, T, G, m]. value: [B, T, G, v].
        log_decay: [B, T, G], at most 0, or None. state: S [B, G, m, v] before the first token.

    Returns:
        [B, T, H, v] and S after the last token.
    """
    batch, tokens, heads, _ = query.shape
    groups, width = value.shape[2:]
    if tokens == 0:
        return query.new_zeros(batch, 0, heads, width), state
    size = min(_CHUNK, tokens)
    count = -(-tokens // size)

    def split(x: Tensor) -> Tensor:  # [B, T, N, m] -> [B, N, n, C, m]; padding writes nothing
        x = F.pad(x.transpose(1, 2), (0, 0, 0, count * size - tokens))
        return x.unflatten(2, (count, size))

    q = split(query).unflatten(1, (groups, heads // groups))  # [B, G, J, n, C, m]
    k, v = split(key), split(value)
    gate = torch.zeros_like(key[..., :1]) if log_decay is None else log_decay.unsqueeze(-1)
    b = torch.cumsum(split(gate), dim=-2)  # [B, G, n, C, 1], inclusive
    causal = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
    pair = torch.exp((b - b.transpose(-1, -2)).masked_fill(~causal, -torch.inf))
    inner = ((q @ k.unsqueeze(2).transpose(-1, -2)) * pair.unsqueeze(2)) @ v.unsqueeze(2)
    added = (k * torch.exp(b[..., -1:, :] - b)).transpose(-1, -2) @ v
    entry = []
    for n in range(count):
        entry.append(state)
        state = torch.exp(b[:, :, n, -1]).unsqueeze(-1) * state + added[:, :, n]
    carried = (q * torch.exp(b).unsqueeze(2)) @ torch.stack(entry, 2).unsqueeze(2)
    out = (inner + carried).flatten(3, 4)[..., :tokens, :]
    return out.permute(0, 3, 1, 2, 4).reshape(batch, tokens, heads, width), state
