"""Softmax attention with RoPE: PyTorch's scaled_dot_product_attention over everything before.

o_t = sum_{j <= t} softmax_j(<q_t, k_j> / sqrt(v)) v_j        q, k rotated by their positions
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.baselines.mixer import Mixer, State
from gma_torch.config import GmaConfig
from gma_torch.rope import rope_table, turn


class SoftmaxMixer(Mixer):
    """The state is the key-value cache: keys and values [B, n, G, v]; it grows."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__(config, layer)
        width, v = config.hidden_size, self.head_dim
        self.q_proj = nn.Linear(width, self.heads * v, bias=False)
        self.k_proj = nn.Linear(width, self.groups * v, bias=False)
        self.v_proj = nn.Linear(width, self.groups * v, bias=False)
        self.o_proj = nn.Linear(self.heads * v, width, bias=False)

    def initial_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> State:
        """An empty cache."""
        empty = torch.zeros(batch, 0, self.groups, self.head_dim, dtype=dtype, device=device)
        return empty, empty

    def project(self, x: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q [B, T, H, v], rotated k and v [B, T, G, v]."""
        q = self.q_proj(x).unflatten(-1, (self.heads, -1))
        k, value = (p(x).unflatten(-1, (self.groups, -1)) for p in (self.k_proj, self.v_proj))
        table = rope_table(position, x.shape[1], self.head_dim, self.rope_theta, q.dtype, x.device)
        return turn(q, *table), turn(k, *table), value

    def forward(
        self, x: Tensor, state: State | None = None, position: int = 0
    ) -> tuple[Tensor, State]:
        """See `Mixer`."""
        q, k, value = self.project(x, position)
        if state is not None:
            k = torch.cat([state[0].to(k.dtype), k], dim=1)
            value = torch.cat([state[1].to(value.dtype), value], dim=1)
        old, mask = k.shape[1] - q.shape[1], None
        if old:
            mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=x.device).tril(old)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), value.transpose(1, 2),
            attn_mask=mask, is_causal=not old, enable_gqa=True,
        )  # fmt: skip
        return self.o_proj(out.transpose(1, 2).flatten(2)), (k, value)

    def state_bytes(self, tokens: int) -> int:
        """A key and a value a token and head."""
        return 4 * 2 * self.groups * self.head_dim * tokens
