"""Bidirectional GMA: every token reads what all tokens wrote (docs/MATH.md 4).

    M = R^T V,  s = R^T 1,  o_i = q_i M / <q_i, s>

computed as in the causal layer: slots keep means m = M / s, and the read is
softmax_k(score + log s) m, so that nothing is divided by a small number (docs/MATH.md 6).
Shapes as in `gma_torch.causal`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gma_torch.causal import SlotState, log_mass
from gma_torch.responsibilities import (
    matrix_scores,
    score_matrix,
    variance,
    write_responsibilities,
)


def write_all(resp_k: Tensor, value: Tensor) -> SlotState:
    """The slots after all tokens. resp_k [B, T, G, K], value [B, T, G, v]."""
    mass = resp_k.sum(dim=1, dtype=torch.float64)
    sums = torch.einsum("btgk,btgv->bgkv", resp_k, value)
    used = mass > 0
    inverse = torch.where(used, 1.0 / torch.where(used, mass, 1.0), 0.0).to(sums.dtype)
    return SlotState(mass, inverse.unsqueeze(-1) * sums)


def bidirectional(
    score_q: Tensor, resp_k: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """All tokens write, then all read.

    Args:
        score_q: [B, T, H, K]. resp_k: [B, T, G, K]. value: [B, T, G, v].
        mask: [B, T] bool, False for padding, which writes nothing.

    Returns:
        [B, T, H, v]; 0 if every token is padding.
    """
    if mask is not None:
        resp_k = resp_k * mask[:, :, None, None]
    groups = resp_k.shape[2]
    slots = write_all(resp_k, value)
    written = (slots.mass > 0).any(-1)[:, None, :, None, None]
    score = score_q.unflatten(2, (groups, -1))  # [B, T, G, J, K]
    logits = score + log_mass(slots.mass, score.dtype)[:, None, :, None]
    weight = torch.softmax(torch.where(written, logits, 0.0), dim=-1)
    out = torch.einsum("btgjk,bgkv->btgjv", torch.where(written, weight, 0.0), slots.memory)
    return out.flatten(2, 3)


class BidirectionalGma(nn.Module):
    """A plain bidirectional GMA layer: [B, T, d] -> [B, T, d], for encoders.

    Args:
        width: d. heads: H, each with a mixture of its own. components: K. routing_dim: r.
        head_dim: v. var_param: see `gma_torch.responsibilities.variance`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        components: int,
        routing_dim: int,
        head_dim: int,
        var_param: str = "bounded",
    ) -> None:
        super().__init__()
        self.heads, self.var_param = heads, var_param
        self.route_q_proj = nn.Linear(width, heads * routing_dim, bias=False)
        self.route_k_proj = nn.Linear(width, heads * routing_dim, bias=False)
        self.v_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.component_mean = nn.Parameter(torch.randn(heads, components, routing_dim))
        self.component_omega = nn.Parameter(torch.zeros(heads, components, routing_dim))
        self.prior_logits = nn.Parameter(torch.zeros(heads, components))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, T, d], mask [B, T] bool (False = padding) -> [B, T, d]."""
        var = variance(self.component_omega, self.var_param)
        matrix = score_matrix(self.component_mean, var, self.prior_logits)

        def scores(projected: Tensor) -> Tensor:  # [B, T, H r] -> [B, T, H, K]
            heads = projected.unflatten(-1, (self.heads, 1, -1))
            return matrix_scores(heads, *matrix).squeeze(3)

        resp_k = write_responsibilities(scores(self.route_k_proj(x)))
        value = self.v_proj(x).unflatten(-1, (self.heads, -1))
        out = bidirectional(scores(self.route_q_proj(x)), resp_k, value, mask)
        return self.o_proj(out.flatten(2))
