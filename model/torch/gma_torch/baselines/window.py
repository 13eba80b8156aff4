"""Sliding-window attention: softmax attention over the newest `window` tokens alone.

o_t = sum_{t - w < j <= t} softmax_j(<q_t, k_j> / sqrt(v)) v_j
"""

from __future__ import annotations

import torch
from torch import Tensor

from gma_torch.baselines.mixer import State
from gma_torch.baselines.softmax import SoftmaxMixer
from gma_torch.config import ConfigError, GmaConfig
from gma_torch.joint import window_read


class WindowMixer(SoftmaxMixer):
    """Projections of softmax attention; the state is the last w - 1 keys and values, or fewer."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.window = self.options.window
        if not self.window:
            raise ConfigError(f"gma.window = 0 (layer {layer}), must be at least 1 for this mixer")

    def forward(
        self, x: Tensor, state: State | None = None, position: int = 0
    ) -> tuple[Tensor, State]:
        """See `Mixer`."""
        q, k, value = self.project(x, position)
        ring = 0
        if state is not None:
            ring = state[0].shape[1]
            k = torch.cat([state[0].to(k.dtype), k], dim=1)
            value = torch.cat([state[1].to(value.dtype), value], dim=1)
        if x.shape[1] == 0:
            return x, (k, value)
        grouped = q.unflatten(2, (self.groups, -1)).permute(0, 2, 3, 1, 4)
        keys, values = k.transpose(1, 2), value.transpose(1, 2)
        _, out = window_read(grouped, keys, values, self.window, ring=ring)
        first = max(0, k.shape[1] - (self.window - 1))
        out = out.permute(0, 3, 1, 2, 4).flatten(2)
        return self.o_proj(out), (k[:, first:], value[:, first:])

    def state_bytes(self, tokens: int) -> int:
        """The current token's key and value need not be kept for the next ones."""
        return super().state_bytes(min(tokens, self.window - 1))
