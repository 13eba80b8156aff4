"""The joint read (MATH.md 11.1): chunkwise against recurrent, and both against full attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gma_torch.joint import JointState, joint_chunkwise
from gma_torch.joint_reference import joint_recurrent

HEADS, GROUPS, SLOTS, WIDTH, BATCH = 4, 2, 7, 6, 2


def _inputs(tokens: int, read: str, gate: str, seed: int = 0) -> tuple[list, dict]:
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    q, k = normal(BATCH, tokens, HEADS, WIDTH), normal(BATCH, tokens, GROUPS, WIDTH)
    value = normal(BATCH, tokens, GROUPS, WIDTH)
    resp = torch.softmax(3 * normal(BATCH, tokens, GROUPS, SLOTS), -1)
    decay = None
    if gate == "write":
        decay = -0.7 * resp
    elif gate == "head":
        decay = -3 * torch.rand(BATCH, tokens, GROUPS, 1, generator=gen, dtype=torch.float64)
    elif gate == "strong":
        decay = -40 * torch.rand(BATCH, tokens, GROUPS, SLOTS, generator=gen, dtype=torch.float64)
    options = {"slot_bias": normal(HEADS, SLOTS)}
    if read == "adapted":
        options["slot_scale"] = 1 + 0.3 * normal(HEADS)
    else:
        options["log_resp_q"] = torch.log_softmax(normal(BATCH, tokens, HEADS, SLOTS), -1)
    return [q, k, value, resp, decay], options


def _cut(args: list, options: dict, begin: int, end: int) -> tuple[list, dict]:
    """The same inputs for tokens begin..end."""
    part = dict(options)
    if "log_resp_q" in part:
        part["log_resp_q"] = part["log_resp_q"][:, begin:end]
    return [None if x is None else x[:, begin:end] for x in args], part


def _assert_same_state(got: JointState, want: JointState) -> None:
    for name, tensor in vars(want).items():
        if tensor is None:
            assert getattr(got, name) is None
        else:
            torch.testing.assert_close(getattr(got, name), tensor, rtol=0, atol=1e-12)
    assert got.mass.dtype == torch.float64


@pytest.mark.parametrize("read", ["adapted", "static"])
@pytest.mark.parametrize("gate", ["none", "write", "head", "strong"])
@pytest.mark.parametrize("window", [0, 1, 5, 16])
@pytest.mark.parametrize(("tokens", "chunk"), [(1, 4), (37, 1), (37, 8), (53, 64), (4, 2)])
def test_chunkwise_equals_recurrent(
    read: str, gate: str, window: int, tokens: int, chunk: int
) -> None:
    args, options = _inputs(tokens, read, gate)
    want, want_state = joint_recurrent(*args, window=window, **options)
    got, got_state = joint_chunkwise(*args, window=window, chunk=chunk, **options)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    _assert_same_state(got_state, want_state)


@pytest.mark.parametrize("read", ["adapted", "static"])
@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("cuts", [[3, 8, 30], [1, 2, 40], [20]])
def test_continuing_from_a_state_equals_one_call(read: str, window: int, cuts: list[int]) -> None:
    args, options = _inputs(41, read, "write")
    want, want_state = joint_chunkwise(*args, window=window, chunk=8, **options)
    state, parts = None, []
    for begin, end in zip([0, *cuts], [*cuts, 41], strict=True):
        part, part_options = _cut(args, options, begin, end)
        out, state = joint_chunkwise(*part, window=window, chunk=8, state=state, **part_options)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=0, atol=1e-12)
    _assert_same_state(state, want_state)


def test_no_tokens_leave_the_state_alone() -> None:
    args, options = _inputs(12, "adapted", "write")
    _, state = joint_chunkwise(*args, window=4, **options)
    nothing, no_options = _cut(args, options, 0, 0)
    out, after = joint_chunkwise(*nothing, window=4, state=state, **no_options)
    assert out.shape == (BATCH, 0, HEADS, WIDTH)
    _assert_same_state(after, state)


def _full_attention(q: Tensor, k: Tensor, value: Tensor) -> Tensor:
    share = q.shape[2] // k.shape[2]
    k, value = k.repeat_interleave(share, 2), value.repeat_interleave(share, 2)
    logits = torch.einsum("bihv,bjhv->bhij", q, k) / math.sqrt(q.shape[-1])
    mask = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()
    weight = torch.softmax(logits.masked_fill(~mask, -math.inf), -1)
    return torch.einsum("bhij,bjhv->bihv", weight, value)


@pytest.mark.parametrize("window", [0, 3])
def test_distinct_keys_with_one_hot_routing_equal_full_attention(window: int) -> None:
    args, options = _inputs(60, "adapted", "none")
    gen = torch.Generator().manual_seed(1)
    keys = torch.randn(GROUPS, SLOTS, WIDTH, generator=gen, dtype=torch.float64)
    which = torch.randint(SLOTS, (BATCH, 60, GROUPS), generator=gen)
    k = keys[torch.arange(GROUPS), which]
    resp = torch.nn.functional.one_hot(which, SLOTS).double()
    bias, scale = torch.zeros(HEADS, SLOTS).double(), torch.ones(HEADS).double()
    out, _ = joint_chunkwise(
        args[0], k, args[2], resp, None, window=window, slot_bias=bias, slot_scale=scale, chunk=16
    )
    torch.testing.assert_close(out, _full_attention(args[0], k, args[2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("read", ["adapted", "static"])
def test_window_as_long_as_the_text_is_full_attention(read: str) -> None:
    args, options = _inputs(33, read, "none")
    out, _ = joint_chunkwise(*args, window=33, chunk=8, **options)
    torch.testing.assert_close(out, _full_attention(*args[:3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", ["none", "write", "head"])
def test_later_tokens_do_not_change_earlier_outputs_by_one_bit(gate: str) -> None:
    args, options = _inputs(40, "adapted", gate)
    changed = [None if x is None else x.clone() for x in args]
    other, _ = _inputs(40, "adapted", gate, seed=5)
    for new, source in zip(changed, other, strict=True):
        if new is not None:
            new[:, 23:] = source[:, 23:]
    run = {"window": 6, "chunk": 8, "max_decay": 0.7, **options}
    before, _ = joint_chunkwise(*args, **run)
    after, _ = joint_chunkwise(*changed, **run)
    assert torch.equal(before[:, :23], after[:, :23])
    assert not torch.equal(before[:, 23:], after[:, 23:])


def test_outputs_stay_inside_the_range_of_past_values() -> None:
    args, options = _inputs(50, "adapted", "write")
    out, _ = joint_chunkwise(*args, window=5, chunk=16, **options)
    value = args[2].repeat_interleave(HEADS // GROUPS, 2)
    low, high = value.cummin(1).values, value.cummax(1).values
    assert bool(((out >= low - 1e-12) & (out <= high + 1e-12)).all())


def test_gradients_equal_those_of_the_recurrent_form() -> None:
    args, options = _inputs(30, "adapted", "write")
    grads = []
    for form in (joint_chunkwise, joint_recurrent):
        leaves = [x.clone().requires_grad_() for x in args]
        extra = {name: x.clone().requires_grad_() for name, x in options.items()}
        out, _ = form(*leaves, window=5, **extra)
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        grads.append(torch.autograd.grad((out * weights).sum(), [*leaves, *extra.values()]))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


def test_tiny_responsibilities_are_flushed_and_nothing_is_nan() -> None:
    args, options = _inputs(20, "adapted", "none")
    args = [None if x is None else x.float() for x in args]
    args[3] = torch.zeros(BATCH, 20, GROUPS, SLOTS)
    args[3][..., 0], args[3][..., 1] = 1.0, 2.0**-101
    options = {name: x.float() for name, x in options.items()}
    out, state = joint_chunkwise(*args, window=2, **options)
    assert bool(torch.isfinite(out).all())
    assert bool((state.mass[..., 1:] == 0).all())
    assert bool((state.mass[..., 0] == 18).all())
