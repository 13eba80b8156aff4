"""Small layers of the decoder: RMSNorm, SwiGLU, short convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32 or better."""
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * weight.to(wide.dtype)).to(x.dtype)


class RmsNorm(nn.Module):
    """`rms_norm` with its weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> [..., width]."""
        return rms_norm(x, self.weight, self.eps)


class SwiGlu(nn.Module):
    """down(silu(gate(x)) * up(x)); hidden width `intermediate`."""

    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, intermediate, bias=False)
        self.up_proj = nn.Linear(width, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> [..., width]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def short_convolution(x: Tensor, weight: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution.

    Args:
        x: [B, T, C]. weight: [C, w], last column = current token.
        history: [B, w - 1, C] the inputs before x, oldest first; zeros at the start.

    Returns:
        [B, T, C] and the next history.
    """
    tokens, width = x.shape[1], weight.shape[1]
    padded = torch.cat([history.to(x.dtype), x], dim=1)
    out = x * weight[:, -1]
    for lag in range(1, width):
        begin = width - 1 - lag
        out = out + padded[:, begin : begin + tokens] * weight[:, width - 1 - lag]
    return out, padded[:, tokens:]
