"""Linear attention with the feature map elu + 1 (Katharopoulos et al., arXiv 2006.16236).

phi(x) = elu(x) + 1        o_t = phi(q_t) sum_{j<=t} phi(k_j) v_j^T / <phi(q_t), sum phi(k_j)>
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.baselines.mixer import Mixer, State, core_dtype, linear_attention
from gma_torch.config import GmaConfig

_EPS = 1e-12  # both sums are positive: against underflow alone


class LinearEluMixer(Mixer):
    """The state is one matrix [B, G, m, v + 1]: sums of phi(k) v^T, and of phi(k) beside them."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__(config, layer)
        width, v = config.hidden_size, self.head_dim
        self.q_proj = nn.Linear(width, self.heads * v, bias=False)
        self.k_proj = nn.Linear(width, self.groups * v, bias=False)
        self.v_proj = nn.Linear(width, self.groups * v, bias=False)
        self.o_proj = nn.Linear(self.heads * v, width, bias=False)

    @property
    def features(self) -> int:
        """m, the width of the feature map."""
        return self.head_dim

    def feature_map(self, x: Tensor, *, query: bool) -> Tensor:
        """[..., v] -> [..., m], positive; queries and keys alike."""
        del query
        return F.elu(x) + 1

    def initial_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> State:
        """All zero."""
        shape = (batch, self.groups, self.features, self.head_dim + 1)
        return (torch.zeros(shape, dtype=dtype, device=device),)

    def forward(
        self, x: Tensor, state: State | None = None, position: int = 0
    ) -> tuple[Tensor, State]:
        """See `Mixer`; positions do not matter."""
        core = core_dtype(x)
        (sums,) = state or self.initial_state(x.shape[0], core, x.device)
        q = self.q_proj(x).to(core).unflatten(-1, (self.heads, -1))
        k = self.k_proj(x).to(core).unflatten(-1, (self.groups, -1))
        value = self.v_proj(x).to(core).unflatten(-1, (self.groups, -1))
        with torch.autocast(x.device.type, enabled=False):
            out, sums = linear_attention(
                self.feature_map(q, query=True),
                self.feature_map(k, query=False),
                torch.cat([value, torch.ones_like(value[..., :1])], dim=-1),
                None,
                sums,
            )
        out = out[..., :-1] / (out[..., -1:] + _EPS)
        return self.o_proj(out.flatten(2).to(x.dtype)), (sums,)

    def state_bytes(self, tokens: int) -> int:
        """Does not depend on the tokens."""
        del tokens
        return 4 * self.groups * self.features * (self.head_dim + 1)
