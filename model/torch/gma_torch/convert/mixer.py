"""The trainable part of one converted layer, and its k-means++ start (docs/MATH.md 11.1).

Shapes: G memory heads, J query heads for each (H = G J), K components, r routing width, v head
width. Routing vectors are x = W k with k not rotated; W is `route` of the model directory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gma_torch.causal import empty_slots
from gma_torch.joint_slots import slot_chunk, slot_read
from gma_torch.responsibilities import (
    matrix_scores,
    omega_of_variance,
    score_matrix,
    variance,
    write_responsibilities,
)
from gma_torch.rope import turn

_VAR_PARAM = "bounded"


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
        """k [B, G, T, v], not rotated -> flushed r [B, G, T, K] (docs/MATH.md 2)."""
        var = variance(self.component_omega, _VAR_PARAM)
        matrix = score_matrix(self.component_mean, var, self.prior_logits)
        return write_responsibilities(matrix_scores(k @ self.route.transpose(-1, -2), *matrix))

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
        resp = self.responsibilities(k[:, :, :stored])
        beta = nn.functional.softplus(self.forget_beta)
        decay = -beta.view(-1, 1, 1) * resp
        batch, groups, _, components = resp.shape
        lse, out, _ = slot_read(
            q_rot[..., window:, :], k_rot[:, :, :stored], value[:, :, :stored], resp, decay,
            empty_slots(batch, groups, components, 2 * self.width),
            scale=self.slot_scale, bias=self.slot_bias, log_resp_q=None,
            chunk=slot_chunk(decay, 64, float(beta.detach().max())),
        )  # fmt: skip
        return lse, out


def _query_metric(q_rot: Tensor, cos: Tensor, sin: Tensor, far: int) -> Tensor:
    """Second moment of the logit a key causes: k^T M k = E <q, R k>^2 / v over queries, distances.

    Args:
        q_rot: [G, N, v] rotated queries of all positions (rotation mixes the distances).
        cos, sin: [D, v/2] the rotation by distances, far enough apart; far: how many to use.

    Returns:
        M [G, v, v], symmetric.
    """
    groups, _, width = q_rot.shape
    moment = torch.zeros(groups, width, width)
    for d in torch.linspace(0, cos.shape[0] - 1, far).long().tolist():
        # R(-d) q: the query as the un-rotated key sees it.
        back = turn(q_rot, cos[d : d + 1], -sin[d : d + 1])
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
        cos, sin: [D, v/2] rotations by distance.
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
    mixer.component_omega.fill_(omega_of_variance(1.0 / precision, routing, _VAR_PARAM))
    mixer.forget_beta.copy_(torch.log(torch.expm1(torch.tensor(beta))))
