"""FAVOR+: softmax attention through positive orthogonal random features (arXiv 2009.14794).

    phi(x)_i = exp(<w_i, x'> - |x'|^2 / 2) / sqrt(m),   x' = x / v^(1/4)
    E <phi(q), phi(k)> = exp(<q, k> / sqrt(v));         the rest is linear attention

m = num_components features. The w_i are fixed: blocks of orthogonal directions with the norms of
Gaussian vectors. A key's exponent is at most |w|^2 / 2, about v / 2, so keys need no stabiliser up
to v = 128 in float32; a query's largest exponent cancels in the ratio and is taken out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gma_torch.baselines.linear_elu import LinearEluMixer
from gma_torch.config import GmaConfig


def orthogonal_features(count: int, width: int, seed: int) -> Tensor:
    """w [count, width]: orthogonal within each block of `width` rows, norms as if Gaussian."""
    gen = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(-(-count // width)):
        square = torch.randn(width, width, dtype=torch.float64, generator=gen)
        axes, triangle = torch.linalg.qr(square)
        blocks.append(axes * triangle.diagonal().sign())  # else some directions are likelier
    norms = torch.randn(count, width, dtype=torch.float64, generator=gen).norm(dim=-1)
    return torch.cat(blocks)[:count] * norms.unsqueeze(-1)


class FavorMixer(LinearEluMixer):
    """Linear attention with positive random features; every layer draws its own directions."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.register_buffer(
            "directions",
            orthogonal_features(config.num_components, config.head_dim, layer).float(),
        )

    @property
    def features(self) -> int:
        """m."""
        return self.directions.shape[0]

    def feature_map(self, x: Tensor, *, query: bool) -> Tensor:
        """[..., v] -> [..., m]; a query's features are up to a common factor."""
        x = x * self.head_dim**-0.25
        exponent = x @ self.directions.to(x.dtype).T - 0.5 * x.square().sum(-1, keepdim=True)
        if query:
            exponent = exponent - exponent.detach().amax(-1, keepdim=True)
        return torch.exp(exponent) / math.sqrt(self.features)
