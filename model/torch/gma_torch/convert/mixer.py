"""The trainable part of one converted layer, and its k-means++ start (docs/MATH.md 11.1).

Shapes: G memory heads, J query heads for each (H = G J), K components, r routing width, v head
width. Routing vectors are x = W k with k not rotated; W is folded into route_k_proj at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gma_torch.joint_slots import SlotState, flush, slot_read

LOG_VAR_LOW = math.log(0.05)


def log_var_high(routing_dim: int) -> float:
    """The ceiling of log sigma^2 (docs/MATH.md 3)."""
    return math.log(20.0 * math.sqrt(routing_dim))


class TransferMixer(nn.Module):
    """Routing, mixture, slot offsets, slot scales and write-tied forgetting of one layer."""

    def __init__(self, groups: int, share: int, components: int, routing: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.route = nn.Parameter(torch.zeros(groups, routing, width))
        self.component_mean = nn.Parameter(torch.zeros(groups, components, routing))
        self.component_omega = nn.Parameter(torch.zeros(groups, components, routing))
        self.prior_logits = nn.Parameter(torch.zeros(groups, components))
        self.slot_bias = nn.Parameter(torch.zeros(groups, share, components))
        self.slot_scale = nn.Parameter(torch.ones(groups, share))
        self.forget_beta = nn.Parameter(torch.zeros(groups))

    def scalars(self) -> list[nn.Parameter]:
        """Parameters that want a larger learning rate."""
        return [self.component_omega, self.prior_logits, self.slot_bias, self.slot_scale,
                self.forget_beta]  # fmt: skip

    def responsibilities(self, k: Tensor) -> Tensor:
        """k [B, G, T, v], not rotated -> r [B, G, T, K] (docs/MATH.md 2)."""
        x = k @ self.route.transpose(-1, -2)
        low, high = LOG_VAR_LOW, log_var_high(x.shape[-1])
        log_var = low + (high - low) * torch.sigmoid(self.component_omega)
        lam = torch.exp(-log_var)
        # Centred on the mean of the means: the expanded square then cancels little (MATH.md 2.2).
        center = self.component_mean.mean(1, keepdim=True)
        x, mu = x - center, self.component_mean - center
        constant = self.prior_logits - 0.5 * (log_var + lam * mu * mu).sum(-1)  # [G, K]
        score = torch.cat([x * x, x], -1) @ torch.cat([-0.5 * lam, lam * mu], -1).transpose(-1, -2)
        return torch.softmax(score + constant.unsqueeze(1), dim=-1)

    def slots(
        self, q_rot: Tensor, k: Tensor, k_rot: Tensor, value: Tensor, window: int
    ) -> tuple[Tensor, Tensor]:
        """The slot half of the joint read, for the queries from position `window` on.

        Args:
            q_rot: [B, G, J, T, v]; k, k_rot, value: [B, G, T, v].

        Returns:
            Log-sum-exp [B, G, J, T - window] and output [B, G, J, T - window, v].
        """
        stored = k.shape[2] - window
        resp = flush(self.responsibilities(k[:, :, :stored]))
        beta = nn.functional.softplus(self.forget_beta)
        chunk = 64
        while float(beta.detach().max()) * chunk >= 60:
            chunk //= 2
        batch, groups, _, components = resp.shape
        start = SlotState(
            torch.zeros(batch, groups, components, dtype=torch.float64),
            torch.zeros(batch, groups, components, 2 * self.width),
        )
        lse, out, _ = slot_read(
            q_rot[..., window:, :], k_rot[:, :, :stored], value[:, :, :stored], resp,
            -beta.view(-1, 1, 1) * resp, start,
            scale=self.slot_scale, bias=self.slot_bias, log_resp_q=None, chunk=chunk,
        )  # fmt: skip
        return lse, out


def _query_metric(q_rot: Tensor, cos: Tensor, sin: Tensor, far: int) -> Tensor:
    """Second moment of the logit a key causes: k^T M k = E <q, R k>^2 / v over queries, distances.

    Args:
        q_rot: [G, N, v] rotated queries of all positions (rotation mixes the distances).
        cos, sin: [D, v] the rotation by distances, far enough apart; far: how many to use.

    Returns:
        M [G, v, v], symmetric.
    """
    groups, _, width = q_rot.shape
    moment = torch.zeros(groups, width, width)
    half = width // 2
    for d in torch.linspace(0, cos.shape[0] - 1, far).long().tolist():
        # R(-d) q: the query as the un-rotated key sees it.
        c, s = cos[d], sin[d]
        turned = torch.cat([q_rot[..., half:], -q_rot[..., :half]], -1)
        back = q_rot * c + turned * s
        moment += back.transpose(-1, -2) @ back / q_rot.shape[1]
    return moment / (far * width)


def _plus_plus(x: Tensor, first: Tensor, count: int, gen: torch.Generator) -> Tensor:
    """k-means++ seeds: x [N, r], first seed [r] -> [count, r]."""
    seeds = [first]
    distance = (x - first).pow(2).sum(-1)
    for _ in range(count - 1):
        pick = x[int(torch.multinomial(distance, 1, generator=gen))]
        seeds.append(pick)
        distance = torch.minimum(distance, (x - pick).pow(2).sum(-1))
    return torch.stack(seeds)


@torch.no_grad()
def start_mixer(
    mixer: TransferMixer,
    q_rot: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    precision: float,
    beta: list[float],
    gen: torch.Generator,
) -> None:
    """k-means++ on keys in the metric of the logits they cause.

    Args:
        q_rot: [B, T, H, v], k: [B, T, G, v] of one layer on a few sequences.
        cos, sin: [D, v] rotations by distance.
        precision: initial 1/sigma^2. beta: initial forgetting of each memory head.
    """
    groups, routing, width = mixer.route.shape
    share = q_rot.shape[2] // groups
    # Un-rotate nothing: a query at position t under R(-d) runs through every relative angle.
    q = q_rot.unflatten(2, (groups, share)).permute(2, 0, 1, 3, 4).reshape(groups, -1, width)
    keep = torch.randperm(q.shape[1], generator=gen)[:4096]
    metric = _query_metric(q[:, keep], cos, sin, 64)
    level, axis = torch.linalg.eigh(metric)  # ascending
    level, axis = level[:, -routing:], axis[..., -routing:]
    mixer.route.copy_((axis * level.clamp_min(0).sqrt().unsqueeze(1)).transpose(-1, -2))
    x = k.permute(2, 0, 1, 3) @ mixer.route.transpose(-1, -2).unsqueeze(1)  # [G, B, T, r]
    for g in range(groups):
        mixer.component_mean[g] = _plus_plus(
            x[g].flatten(0, 1), x[g, :, 0].mean(0), mixer.component_mean.shape[1], gen
        )
    low, high = LOG_VAR_LOW, log_var_high(routing)
    share_of_range = (-math.log(precision) - low) / (high - low)
    mixer.component_omega.fill_(math.log(share_of_range / (1 - share_of_range)))
    mixer.forget_beta.copy_(torch.log(torch.expm1(torch.tensor(beta))))
