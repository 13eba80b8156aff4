"""Rotary position embedding, half-split, over all dimensions of a head.

Coordinates (i, i + v/2) are a pair, turned by position * theta^(-2i/v). Angles are computed in
float64, because positions have no bound (docs/MATH.md 11.1); the first token stands at position 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(
    start: int,
    tokens: int,
    width: int,
    theta: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """cos and sin [T, v/2] of the positions start, start + 1, ... for heads of width v."""
    half = width // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    position = torch.arange(start, start + tokens, dtype=torch.float64, device=device)
    angle = position.unsqueeze(1) * frequency
    return torch.cos(angle).to(dtype), torch.sin(angle).to(dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns x [..., T, heads, v] by the angles of a table [T, v/2], or [1, v/2] for all tokens."""
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotate(x: Tensor, start: int, theta: float) -> Tensor:
    """Rotates x [B, T, heads, v], whose tokens stand at positions start, start + 1, ..."""
    return turn(x, *rope_table(start, x.shape[1], x.shape[-1], theta, x.dtype, x.device))
