"""The three causal forms and their laws: docs/MATH.md 5, 6, 13 (items 1 to 8 and 10)."""

import itertools

import pytest
import torch

from gma_torch.bidirectional import BidirectionalGma, bidirectional, write_all
from gma_torch.causal import (
    SlotState,
    causal_chunkwise,
    causal_quadratic,
    causal_recurrent,
    empty_slots,
    merge_slots,
)
from gma_torch.responsibilities import (
    direct_scores,
    matrix_scores,
    score_matrix,
    write_responsibilities,
)

SIZES = [(0, 2, 1, 3, 4), (1, 2, 2, 3, 4), (50, 2, 2, 1, 3), (157, 4, 2, 13, 5)]  # T, H, G, K, v
GATES = ["none", "head", "write", "slot"]
CHUNKS = [None, 1, 2, 5, 16, 64, 157, 400]


def _inputs(size, gate, seed=0, sharpness=2.0, dtype=torch.float64):
    tokens, heads, groups, slots, width = size
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(2, tokens, *shape, generator=gen, dtype=torch.float64)

    score_q = sharpness * normal(heads, slots)
    resp_k = write_responsibilities(sharpness * normal(groups, slots))
    value = normal(groups, width)
    decay = {
        "none": None,
        "head": -3.0 * torch.sigmoid(normal(groups, 1)),
        "slot": -2.0 * torch.sigmoid(normal(groups, slots)),
        "write": -1.5 * resp_k,
    }[gate]
    return [None if x is None else x.to(dtype) for x in (score_q, resp_k, value, decay)]


def _close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size, gate", list(itertools.product(SIZES, GATES)))
def test_three_forms_agree(size, gate):
    inputs = _inputs(size, gate)
    reference = causal_quadratic(*inputs)
    recurrent, state = causal_recurrent(*inputs)
    _close(recurrent, reference)
    for chunk in CHUNKS:
        out, end = causal_chunkwise(*inputs, chunk=chunk)
        _close(out, reference)
        _close(end.mass, state.mass)
        _close(end.memory, state.memory)


@pytest.mark.parametrize("gate", GATES)
def test_raw_sums_give_the_same_reads(gate):
    score_q, resp_k, value, decay = _inputs((60, 2, 2, 7, 4), gate)
    q = torch.softmax(score_q, -1)
    mass = torch.zeros_like(resp_k[:, 0])
    sums = torch.zeros(*mass.shape, 4, dtype=mass.dtype)
    out, _ = causal_recurrent(score_q, resp_k, value, decay)
    for t in range(60):
        gate_t = 1.0 if decay is None else torch.exp(decay[:, t])
        mass = mass * gate_t + resp_k[:, t]
        scale = gate_t if decay is None else gate_t.unsqueeze(-1)
        sums = sums * scale + resp_k[:, t].unsqueeze(-1) * value[:, t].unsqueeze(2)
        read = torch.einsum("bhk,bhkv->bhv", q[:, t], sums) / (q[:, t] * mass).sum(-1, True)
        _close(out[:, t], read)


@pytest.mark.parametrize("gate, sharpness", list(itertools.product(GATES, [0.5, 2.0, 8.0])))
def test_float32_is_near_the_float64_reference(gate, sharpness):
    size = (400, 4, 2, 32, 16)
    reference, _ = causal_recurrent(*_inputs(size, gate, sharpness=sharpness))
    low = _inputs(size, gate, sharpness=sharpness, dtype=torch.float32)
    assert float((causal_chunkwise(*low)[0] - reference).abs().max()) < 1e-5
    assert float((causal_recurrent(*low)[0] - reference).abs().max()) < 1e-5


@pytest.mark.parametrize("gate", GATES)
def test_a_prompt_split_anywhere_leaves_the_same_state(gate):
    inputs = _inputs((90, 4, 2, 9, 5), gate)
    whole, end = causal_chunkwise(*inputs)
    for cut in (1, 40, 64, 89):
        head = [None if x is None else x[:, :cut] for x in inputs]
        tail = [None if x is None else x[:, cut:] for x in inputs]
        first, state = causal_chunkwise(*head)
        second, state = causal_recurrent(*tail, state)
        _close(torch.cat([first, second], 1), whole)
        _close(state.mass, end.mass)
        _close(state.memory, end.memory)


@pytest.mark.parametrize("gate", ["none", "head", "write", "slot"])
def test_gradients_match_central_differences(gate):
    score_q, resp_k, value, decay = _inputs((9, 2, 1, 3, 2), gate)
    raw_k = torch.log(resp_k)
    leaves = [score_q, raw_k, value] + ([] if decay is None else [decay])
    weight = torch.randn(2, 9, 2, 2, generator=torch.Generator().manual_seed(5)).double()

    def loss(score_q, raw_k, value, decay=None):
        resp = write_responsibilities(raw_k)
        return (causal_chunkwise(score_q, resp, value, decay, chunk=4)[0] * weight).sum()

    leaves = [x.clone().requires_grad_() for x in leaves]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    step = 1e-5
    for index, leaf in enumerate(leaves):
        flat = leaf.detach().flatten()
        for k in range(0, flat.numel(), max(1, flat.numel() // 12)):
            values = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[k] += sign * step
                args = [x.detach() for x in leaves]
                args[index] = moved.view_as(leaf)
                values.append(loss(*args))
            numeric = (values[0] - values[1]) / (2 * step)
            scale = gradients[index].abs().max().clamp(min=1.0)
            assert float((gradients[index].flatten()[k] - numeric).abs() / scale) < 1e-7


@pytest.mark.parametrize("gate", GATES)
def test_chunkwise_and_recurrent_gradients_agree(gate):
    inputs = _inputs((40, 4, 2, 6, 3), gate)
    leaves = [x.requires_grad_() for x in inputs if x is not None]
    weight = torch.randn(2, 40, 4, 3, generator=torch.Generator().manual_seed(6)).double()
    chunkwise = torch.autograd.grad((causal_chunkwise(*inputs)[0] * weight).sum(), leaves)
    recurrent = torch.autograd.grad((causal_recurrent(*inputs)[0] * weight).sum(), leaves)
    for a, b in zip(chunkwise, recurrent, strict=True):
        _close(a, b, 1e-11)


@pytest.mark.parametrize("gate", GATES)
def test_outputs_are_averages_of_past_values(gate):
    inputs = _inputs((80, 4, 2, 9, 5), gate)
    out, _ = causal_chunkwise(*inputs)
    by_head = inputs[2].repeat_interleave(2, dim=2)
    _close(out[:, 0], by_head[:, 0])
    low, high = by_head.cummin(1).values, by_head.cummax(1).values
    assert bool(((out >= low - 1e-12) & (out <= high + 1e-12)).all())
    inputs[2] = torch.full_like(inputs[2], 0.7)
    _close(causal_chunkwise(*inputs)[0], torch.full_like(out, 0.7))


@pytest.mark.parametrize("slots", [1, 6])
def test_one_component_or_equal_components_give_the_prefix_mean(slots):
    score_q, _, value, _ = _inputs((50, 2, 2, slots, 3), "none")
    resp_k = torch.full((2, 50, 2, slots), 1.0 / slots, dtype=torch.float64)
    out, _ = causal_chunkwise(score_q, resp_k, value)
    count = torch.arange(1, 51, dtype=torch.float64).view(1, -1, 1, 1)
    _close(out, value.cumsum(1) / count)


def test_slots_without_a_key_are_read_exactly():
    # docs/MATH.md 6, worked case: in the linear domain this is 0/0.
    score_q = torch.tensor([0.0, -200.0, -210.0, -220.0]).view(1, 1, 1, 4)
    resp_k = write_responsibilities(torch.tensor([-230.0, 0.0, -205.0, -215.0]).view(1, 1, 1, 4))
    value = torch.full((1, 1, 1, 1), 2.5)
    for form in (causal_recurrent, causal_chunkwise):
        assert float(form(score_q, resp_k, value)[0]) == 2.5


@pytest.mark.parametrize("gate", ["none", "head", "write"])
def test_sharp_routing_stays_finite_forward_and_backward(gate):
    score_q, _, value, decay = _inputs((100, 2, 2, 16, 4), gate, dtype=torch.float32)
    gen = torch.Generator().manual_seed(4)
    score_k = 300.0 * torch.randn(2, 100, 2, 16, generator=gen)
    leaves = [150.0 * score_q, score_k, value] + ([decay] if gate == "head" else [])
    leaves = [x.detach().requires_grad_() for x in leaves]
    resp_k = write_responsibilities(leaves[1])
    decay = -1.5 * resp_k if gate == "write" else None
    if gate == "head":
        decay = 20.0 * leaves[3]  # up to -60 a token
    for form in (causal_chunkwise, causal_recurrent):
        out, state = form(leaves[0], resp_k, leaves[2], decay)
        loss = out.square().sum() + state.memory.sum()
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
        for x in (out, state.mass, state.memory, *gradients):
            assert bool(torch.isfinite(x).all())


def test_merging_chunk_states_in_any_order_gives_the_same_state():
    _, resp_k, value, _ = _inputs((60, 2, 2, 7, 4), "none")
    whole = write_all(resp_k, value)
    parts = [
        write_all(resp_k[:, a:b], value[:, a:b]) for a, b in ((0, 9), (9, 30), (30, 31), (31, 60))
    ]
    for order in itertools.permutations(parts):
        state = empty_slots(2, 2, 7, 4, torch.float64)
        for part in order:
            state = merge_slots(state, part)
        _close(state.mass, whole.mass)
        _close(state.memory, whole.memory)
    pairs = merge_slots(merge_slots(parts[0], parts[3]), merge_slots(parts[2], parts[1]))
    _close(pairs.memory, whole.memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gate", GATES)
def test_changing_a_token_leaves_earlier_outputs_bitwise_unchanged(gate, dtype):
    inputs = _inputs((100, 4, 2, 9, 5), gate, dtype=dtype)
    other = _inputs((100, 4, 2, 9, 5), gate, seed=9, dtype=dtype)
    base, _ = causal_chunkwise(*inputs)
    for j in (0, 20, 63, 64, 99):
        changed = [None if x is None else x.clone() for x in inputs]
        for x, y in zip(changed, other, strict=True):
            if x is not None:
                x[:, j] = y[:, j]
        out, _ = causal_chunkwise(*changed)
        assert bool((out[:, :j] == base[:, :j]).all())
        assert bool((out[:, j] != base[:, j]).any())


@pytest.mark.parametrize("gate", ["head", "slot"])
def test_a_gate_that_is_open_changes_nothing(gate):
    score_q, resp_k, value, decay = _inputs((100, 4, 2, 9, 5), gate)
    plain, _ = causal_chunkwise(score_q, resp_k, value)
    _close(causal_chunkwise(score_q, resp_k, value, torch.zeros_like(decay))[0], plain)


def test_a_batch_equals_its_rows_alone():
    inputs = _inputs((100, 4, 2, 9, 5), "head", dtype=torch.float32)
    both, _ = causal_chunkwise(*inputs)
    for row in range(2):
        alone, _ = causal_chunkwise(*[x[row : row + 1] for x in inputs])
        _close(alone[0], both[row], 1e-6)


def test_symmetries_of_the_whole_layer():
    gen = torch.Generator().manual_seed(3)
    mean = torch.randn(1, 6, 4, generator=gen, dtype=torch.float64)
    var = torch.exp(torch.randn(1, 6, 4, generator=gen, dtype=torch.float64))
    prior = torch.randn(1, 6, generator=gen, dtype=torch.float64)
    xq, xk = torch.randn(2, 1, 70, 1, 1, 4, generator=gen, dtype=torch.float64)
    value = torch.randn(1, 70, 1, 3, generator=gen, dtype=torch.float64)

    def layer(xq, xk, mean, var, prior):
        matrix = score_matrix(mean, var, prior)
        resp = write_responsibilities(matrix_scores(xk, *matrix).squeeze(3))
        return causal_chunkwise(matrix_scores(xq, *matrix).squeeze(3), resp, value)[0]

    base = layer(xq, xk, mean, var, prior)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    _close(layer(xq, xk, mean, var, prior - 7.0), base, 1e-11)
    _close(layer(xq, xk, mean[:, order], var[:, order], prior[:, order]), base, 1e-11)
    scale = torch.tensor([2.0, -0.5, 3.0, 1.0], dtype=torch.float64)
    _close(
        layer(xq * scale + 1, xk * scale + 1, mean * scale + 1, var * scale**2, prior), base, 1e-11
    )
    direct = causal_chunkwise(
        direct_scores(xq, mean, var, prior).squeeze(3),
        write_responsibilities(direct_scores(xk, mean, var, prior).squeeze(3)),
        value,
    )[0]
    _close(direct, base, 1e-11)


def test_bidirectional_equals_its_quadratic_form_and_ignores_order_and_padding():
    score_q, resp_k, value, _ = _inputs((40, 4, 2, 9, 5), "none")
    out = bidirectional(score_q, resp_k, value)
    q = torch.softmax(score_q, -1)
    affinity = torch.einsum("bihk,bjhk->bhij", q, resp_k.repeat_interleave(2, 2))
    affinity = affinity / affinity.sum(-1, keepdim=True)
    _close(out, torch.einsum("bhij,bjhv->bihv", affinity, value.repeat_interleave(2, 2)))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    _close(bidirectional(score_q[:, order], resp_k[:, order], value[:, order]), out[:, order])
    mask = torch.arange(40).expand(2, -1) < 25
    short = bidirectional(score_q[:, :25], resp_k[:, :25], value[:, :25])
    _close(bidirectional(score_q, resp_k, value, mask)[:, :25], short)
    assert bool((bidirectional(score_q, resp_k, value, mask & False) == 0).all())
    assert bidirectional(*[x[:, :0] for x in (score_q, resp_k, value)]).shape == (2, 0, 4, 5)


def test_bidirectional_gradients_match_central_differences():
    score_q, resp_k, value, _ = _inputs((6, 2, 1, 3, 2), "none")
    leaves = [x.requires_grad_() for x in (score_q, torch.log(resp_k), value)]
    assert torch.autograd.gradcheck(
        lambda s, r, v: bidirectional(s, write_responsibilities(r), v), leaves, atol=1e-7
    )


def test_bidirectional_layer_is_equivariant():
    torch.manual_seed(0)
    layer = BidirectionalGma(12, heads=2, components=5, routing_dim=4, head_dim=6).double()
    x = torch.randn(2, 30, 12, dtype=torch.float64)
    order = torch.randperm(30)
    _close(layer(x[:, order]), layer(x)[:, order])


def test_empty_state_reads_as_zero():
    state = empty_slots(2, 1, 3, 4)
    assert isinstance(state, SlotState)
    out, end = causal_recurrent(
        torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 1, 3), torch.ones(2, 1, 1, 4)
    )
    assert bool((out == 0).all()) and bool((end.mass == 0).all())
