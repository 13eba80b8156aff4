"""Responsibilities: the posterior over mixture components (docs/MATH.md 2).

    score_k(x) = a_k + 1/2 sum_m log lam_km - 1/2 sum_m lam_km (x_m - mu_km)^2
    r(x)       = softmax_k score_k(x)

Shapes: G memory heads, K components, r = routing width; x is [..., G, J, r] with J = H / G
query heads a memory head (J = 1 on the write side).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# On the write side a smaller responsibility is exactly 0, in every form and on every device, so
# that machines with and without subnormal numbers agree (docs/MATH.md 2.4).
FLUSH = 2.0**-100

_LOG_VAR_FLOOR = math.log(0.05)
_SOFTPLUS_FLOOR = 1e-6


def _log_var_ceiling(routing_dim: int) -> float:
    return math.log(20.0 * math.sqrt(routing_dim))


def variance(omega: Tensor, var_param: str) -> Tensor:
    """Variances from the free parameter `omega` [..., r] (docs/MATH.md 3).

    "bounded": log var = lo + (hi - lo) sigmoid(omega), lo = log 0.05, hi = log(20 sqrt(r)).
    "softplus": var = softplus(omega) + 1e-6, the paper's form.
    """
    if var_param == "softplus":
        return torch.nn.functional.softplus(omega) + _SOFTPLUS_FLOOR
    ceiling = _log_var_ceiling(omega.shape[-1])
    return torch.exp(_LOG_VAR_FLOOR + (ceiling - _LOG_VAR_FLOOR) * torch.sigmoid(omega))


def omega_of_variance(var: float, routing_dim: int, var_param: str) -> float:
    """The `omega` whose variance is `var`; the inverse of `variance` for one number."""
    if var_param == "softplus":
        return math.log(math.expm1(var - _SOFTPLUS_FLOOR))
    ceiling = _log_var_ceiling(routing_dim)
    share = (math.log(var) - _LOG_VAR_FLOOR) / (ceiling - _LOG_VAR_FLOOR)
    return math.log(share / (1.0 - share))


def direct_scores(x: Tensor, mean: Tensor, var: Tensor, prior_logits: Tensor) -> Tensor:
    """Scores by the definition.

    Args:
        x: [..., G, J, r]. mean, var: [G, K, r]. prior_logits: [G, K].

    Returns:
        [..., G, J, K].
    """
    difference = x.unsqueeze(-2) - mean.unsqueeze(1)  # [..., G, J, K, r]
    square = (difference * difference / var.unsqueeze(1)).sum(-1)
    return (prior_logits - 0.5 * var.log().sum(-1)).unsqueeze(1) - 0.5 * square


def score_matrix(mean: Tensor, var: Tensor, prior_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix that turns [x*x, x, 1] into scores, in the centred gauge (docs/MATH.md 2.1, 2.2).

    The origin is moved to the mean of the means, and each row loses its mean over k: both change
    a score by a function of x alone, and keep magnitudes and with them rounding errors small.

    Args:
        mean, var: [G, K, r]. prior_logits: [G, K].

    Returns:
        matrix [G, 2r + 1, K] and origin [G, r].
    """
    origin = mean.mean(dim=1)
    shifted = mean - origin.unsqueeze(1)
    precision = 1.0 / var
    constant = prior_logits - 0.5 * var.log().sum(-1) - 0.5 * (precision * shifted**2).sum(-1)
    rows = torch.cat([-0.5 * precision, precision * shifted, constant.unsqueeze(-1)], dim=-1)
    matrix = rows.transpose(1, 2)
    return matrix - matrix.mean(dim=-1, keepdim=True), origin


def matrix_scores(x: Tensor, matrix: Tensor, origin: Tensor) -> Tensor:
    """Scores by one matrix product; equal to `direct_scores` up to a number per row.

    Args:
        x: [..., G, J, r]. matrix, origin: from `score_matrix`.

    Returns:
        [..., G, J, K].
    """
    x = x - origin.unsqueeze(1)
    features = torch.cat([x * x, x, torch.ones_like(x[..., :1])], dim=-1)
    return features @ matrix


def flush(resp: Tensor) -> Tensor:
    """Sets responsibilities below `FLUSH` to exactly 0."""
    return torch.where(resp < FLUSH, torch.zeros_like(resp), resp)


def write_responsibilities(scores: Tensor) -> Tensor:
    """Softmax over the last dimension with the flush rule; what is written into the slots."""
    return flush(torch.softmax(scores, dim=-1))


def log_responsibilities(scores: Tensor) -> Tensor:
    """Log of the softmax over the last dimension; the query side reads with these."""
    return torch.log_softmax(scores, dim=-1)
