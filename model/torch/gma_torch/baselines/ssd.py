"""Mamba-2's state-space duality layer (Dao, Gu, arXiv 2405.21060), one group of B and C.

    x, B, C = SiLU(conv4(x u)),   dt = softplus(u W + b) per head,   la = -exp(A) dt
    S_t = exp(la_t) S_{t-1} + B_t (dt_t x_t)^T        y_t = C_t S_t + D x_t
    o = (RMSNorm(y * SiLU(z))) W_o

N = num_components numbers of state for each of a head's v channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.baselines.mixer import Mixer, State, core_dtype, linear_attention
from gma_torch.config import GmaConfig
from gma_torch.layers import RmsNorm, short_convolution

_CONV = 4
_DT_MIN, _DT_MAX = 0.001, 0.1  # initial step sizes, as published


class SsdMixer(Mixer):
    """The state is S [B, H, N, v] and the convolution's last inputs [B, 3, H v + 2 N]."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__(config, layer)
        width, inner = config.hidden_size, self.heads * self.head_dim
        self.state_dim = config.num_components
        self.channels = inner + 2 * self.state_dim
        self.x_proj = nn.Linear(width, self.channels, bias=False)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.dt_proj = nn.Linear(width, self.heads, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)
        self.conv_weight = nn.Parameter(torch.zeros(self.channels, _CONV))
        self.out_norm = RmsNorm(inner, config.rms_norm_eps)
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.a_log = nn.Parameter(torch.zeros(self.heads))

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """As published: step sizes log-uniform, A uniform in 1..16, uniform convolution."""
        bound = 1 / math.sqrt(_CONV)
        self.conv_weight.uniform_(-bound, bound, generator=generator)
        share = torch.rand(self.heads, generator=generator)
        dt = torch.exp(math.log(_DT_MIN) + share * math.log(_DT_MAX / _DT_MIN))
        self.dt_bias.copy_(torch.log(torch.expm1(dt)))
        self.a_log.copy_(torch.log(1 + 15 * torch.rand(self.heads, generator=generator)))

    def initial_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> State:
        """All zero."""
        shape = (batch, self.heads, self.state_dim, self.head_dim)
        history = torch.zeros(batch, _CONV - 1, self.channels, dtype=dtype, device=device)
        return torch.zeros(shape, dtype=dtype, device=device), history

    def forward(
        self, x: Tensor, state: State | None = None, position: int = 0
    ) -> tuple[Tensor, State]:
        """See `Mixer`; positions do not matter."""
        core = core_dtype(x)
        memory, history = state or self.initial_state(x.shape[0], core, x.device)
        raw, history = short_convolution(self.x_proj(x).to(core), self.conv_weight.to(core),
                                         history)  # fmt: skip
        inner = self.heads * self.head_dim
        content, write, read = F.silu(raw).split([inner, self.state_dim, self.state_dim], dim=-1)
        content = content.unflatten(-1, (self.heads, -1))
        dt = F.softplus(self.dt_proj(x).to(core) + self.dt_bias.to(core))  # [B, T, H]
        with torch.autocast(x.device.type, enabled=False):
            out, memory = linear_attention(
                read.unsqueeze(2).expand(-1, -1, self.heads, -1),
                write.unsqueeze(2).expand(-1, -1, self.heads, -1),
                content * dt.unsqueeze(-1),
                -torch.exp(self.a_log.to(core)) * dt,
                memory,
            )
        out = (out + self.skip.to(core).unsqueeze(-1) * content).flatten(2)
        out = self.out_norm(out * F.silu(self.gate_proj(x).to(core)))
        return self.o_proj(out.to(x.dtype)), (memory, history)

    def state_bytes(self, tokens: int) -> int:
        """Does not depend on the tokens."""
        del tokens
        memory = self.heads * self.state_dim * self.head_dim
        return 4 * (memory + (_CONV - 1) * self.channels)
