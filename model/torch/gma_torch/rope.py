"""Rotary position embedding, half-split, over all dimensions of a head.

Coordinates (i, i + v/2) are a pair, turned by position * theta^(-2i/v). Angles are computed in
float64, because positions have no bound (docs/MATH.md 11.1); the first token stands at position 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, start: int, theta: float) -> Tensor:
    """Rotates x [B, T, heads, v], whose tokens stand at positions start, start + 1, ..."""
    tokens, half = x.shape[1], x.shape[-1] // 2
    device = x.device
    frequency = theta ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    position = torch.arange(start, start + tokens, dtype=torch.float64, device=device)
    angle = (position.unsqueeze(1) * frequency).unsqueeze(1)  # [T, 1, v/2]
    cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
