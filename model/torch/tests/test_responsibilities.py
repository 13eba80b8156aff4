"""Scores and responsibilities: docs/MATH.md 2 and 13, item 4."""

import math

import pytest
import torch

from gma_torch.responsibilities import (
    FLUSH,
    direct_scores,
    log_responsibilities,
    matrix_scores,
    omega_of_variance,
    score_matrix,
    variance,
    write_responsibilities,
)

SIZES = [(1, 1, 1, 1), (2, 3, 17, 12), (3, 2, 13, 5)]  # G, J, K, r


def _mixture(groups, slots, width, seed=0, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    mean = torch.randn(groups, slots, width, generator=gen, dtype=dtype)
    var = torch.exp(torch.randn(groups, slots, width, generator=gen, dtype=dtype))
    prior = torch.randn(groups, slots, generator=gen, dtype=dtype)
    return mean, var, prior


def _vectors(count, groups, queries, width, seed=1, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(count, groups, queries, width, generator=gen, dtype=dtype)


@pytest.mark.parametrize("groups, queries, slots, width", SIZES)
def test_one_matrix_product_equals_the_definition(groups, queries, slots, width):
    mixture = _mixture(groups, slots, width)
    x = _vectors(40, groups, queries, width)
    direct = log_responsibilities(direct_scores(x, *mixture))
    by_matrix = log_responsibilities(matrix_scores(x, *score_matrix(*mixture)))
    torch.testing.assert_close(by_matrix, direct, rtol=1e-12, atol=1e-12)


def test_float32_keeps_its_digits_when_inputs_and_means_share_an_offset():
    mean, var, prior = _mixture(2, 17, 12)
    x = _vectors(200, 2, 1, 12)
    exact = torch.softmax(direct_scores(x, mean, var, prior), -1)
    shifted = [t.float() for t in (mean + 30, var, prior)]
    resp = torch.softmax(matrix_scores((x + 30).float(), *score_matrix(*shifted)), -1)
    assert float((resp - exact).abs().max()) < 2e-5  # 3.6e-4 without the shifted origin


def test_constant_shift_of_the_prior_changes_nothing():
    mean, var, prior = _mixture(2, 7, 4)
    x = _vectors(30, 2, 3, 4)
    base = torch.softmax(matrix_scores(x, *score_matrix(mean, var, prior)), -1)
    moved = torch.softmax(matrix_scores(x, *score_matrix(mean, var, prior + 3.5)), -1)
    torch.testing.assert_close(moved, base, rtol=1e-12, atol=1e-12)


def test_permuting_components_permutes_responsibilities():
    mean, var, prior = _mixture(2, 7, 4)
    x = _vectors(30, 2, 3, 4)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    base = torch.softmax(matrix_scores(x, *score_matrix(mean, var, prior)), -1)
    permuted = score_matrix(mean[:, order], var[:, order], prior[:, order])
    torch.testing.assert_close(
        torch.softmax(matrix_scores(x, *permuted), -1), base[..., order], rtol=1e-12, atol=1e-12
    )


def test_diagonal_affine_change_of_the_routing_space_changes_nothing():
    mean, var, prior = _mixture(2, 7, 4)
    x = _vectors(30, 2, 3, 4)
    scale = torch.tensor([0.3, -2.0, 5.0, 1.1], dtype=torch.float64)
    offset = torch.tensor([3.0, -1.0, 0.5, 20.0], dtype=torch.float64)
    base = torch.softmax(matrix_scores(x, *score_matrix(mean, var, prior)), -1)
    changed = score_matrix(mean * scale + offset, var * scale**2, prior)
    torch.testing.assert_close(
        torch.softmax(matrix_scores(x * scale + offset, *changed), -1), base, rtol=1e-10, atol=1e-12
    )


def test_shared_variances_make_a_linear_softmax_router():
    mean, var, prior = _mixture(1, 9, 6)
    var = var[:, :1].expand(-1, 9, -1)
    x = _vectors(30, 1, 1, 6)
    matrix, origin = score_matrix(mean, var, prior)
    assert float(matrix[:, :6].abs().max()) < 1e-14  # the quadratic block vanishes
    weight = (mean / var)[0]
    bias = prior[0] - 0.5 * (mean**2 / var)[0].sum(-1)
    linear = torch.softmax(x[:, 0, 0] @ weight.T + bias, -1)
    resp = torch.softmax(matrix_scores(x, matrix, origin), -1)[:, 0, 0]
    torch.testing.assert_close(resp, linear, rtol=1e-12, atol=1e-12)


def test_bounded_variance_has_a_floor_and_a_ceiling():
    omega = torch.tensor([[-50.0, 0.0, 50.0, 1.0]], dtype=torch.float64)
    var = variance(omega, "bounded")[0]
    low, high = 0.05, 20 * math.sqrt(4)
    assert var[0] == pytest.approx(low)
    assert var[1] == pytest.approx(math.sqrt(low * high))
    assert var[2] == pytest.approx(high)


@pytest.mark.parametrize("var_param", ["bounded", "softplus"])
def test_omega_of_variance_is_the_inverse(var_param):
    omega = omega_of_variance(1.7, 9, var_param)
    var = variance(torch.full((1, 9), omega, dtype=torch.float64), var_param)
    torch.testing.assert_close(var, torch.full_like(var, 1.7), rtol=1e-12, atol=0)


def test_softplus_variance_is_the_papers_form():
    omega = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    expected = torch.log1p(torch.exp(omega)) + 1e-6
    torch.testing.assert_close(variance(omega, "softplus"), expected, rtol=1e-12, atol=0)


def test_tiny_write_responsibilities_are_exactly_zero():
    scores = torch.tensor([0.0, math.log(FLUSH) + 0.1, math.log(FLUSH) - 0.1])
    resp = write_responsibilities(scores)
    assert resp[1] > 0
    assert resp[2] == 0
