"""Every option of the model: forms agree, neutral settings are plain GMA, causality, symmetry."""

import itertools
from dataclasses import fields

import pytest
import torch

from gma_torch.config import PRESETS, GmaConfig
from gma_torch.mixer import HORIZON_STEP, GmaMixer
from gma_torch.responsibilities import matrix_scores, score_matrix, variance
from gma_torch.rope import rotate
from gma_torch.testing import random_model

_SIZE = dict(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_memory_heads=2,
    head_dim=6,
    num_components=7,
    routing_dim=5,
    intermediate_size=16,
)
_JOINT = [
    {"window": window, "read": read, "forget": forget}
    for window, read, forget in itertools.product(
        (0, 9), ("static", "adapted"), ("none", "head", "write")
    )
]
OPTIONS = [
    *_JOINT,
    {"short_conv": 2},
    {"route_norm": True},
    {"out_norm": True},
    {"out_gate": True},
    {"var_param": "softplus"},
    {"window": 9, "read": "adapted", "short_conv": 3, "route_norm": True},
    {"read": "adapted", "route": "key", "forget": "write"},
    {"window": 9, "read": "adapted", "route": "key", "forget": "head"},
    PRESETS["from_scratch"],
    PRESETS["converted"] | {"window": 16},
]


def _mixer(options, seed=0, dtype=torch.float64, **size) -> GmaMixer:
    config = GmaConfig(**(_SIZE | size)).with_options(**options)
    return random_model(config, seed).model.layers[0].mixer.to(dtype)


def _input(tokens, seed=0, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(2, tokens, _SIZE["hidden_size"], generator=gen, dtype=dtype)


def _steps(mixer, x, state, position=0):
    out = []
    for t in range(x.shape[1]):
        row, state = mixer.step(x[:, t], state, position + t)
        out.append(row)
    return torch.stack(out, 1) if out else torch.zeros_like(x), state


def _close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def _close_states(a, b, tolerance=1e-12):
    for item in fields(a):
        left, right = getattr(a, item.name), getattr(b, item.name)
        assert (left is None) == (right is None), item.name
        if left is not None:
            assert left.shape == right.shape, item.name
            _close(left, right, tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("tokens", [0, 1, 9, 10, 90])
@torch.no_grad()
def test_chunkwise_equals_recurrent(options, tokens):
    mixer, x = _mixer(options), _input(tokens)
    out, state = mixer(x)
    steps, end = _steps(mixer, x, mixer.initial_state(2, torch.float64, "cpu"))
    _close(out, steps)
    _close_states(state, end)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_prefill_in_parts_then_decode_equals_the_whole(options):
    mixer, x = _mixer(options), _input(100)
    whole, end = mixer(x)
    for cuts in ((1, 5), (9, 64), (63, 90)):
        first, state = mixer(x[:, : cuts[0]])
        second, state = mixer(x[:, cuts[0] : cuts[1]], state, cuts[0])
        third, state = _steps(mixer, x[:, cuts[1] :], state, cuts[1])
        _close(torch.cat([first, second, third], 1), whole)
        _close_states(state, end)


@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("forget", ["none", "head", "write"])
@torch.no_grad()
def test_slots_never_look_much_older_than_the_horizon(window, forget):
    options = {"window": window, "read": "adapted", "forget": forget}
    x = _input(400)
    mixer, plain = _mixer(options, slot_horizon=20), _mixer(options)
    whole, end = mixer(x)
    for cut in (1, 64, 200):
        first, state = mixer(x[:, :cut])
        second, state = _steps(mixer, x[:, cut:], state, cut)
        _close(torch.cat([first, second], 1), whole)
        _close_states(state, end, 1e-10)
    assert ((400 - end.slot_position).amax()) <= 20 + 2 * HORIZON_STEP
    without, _ = plain(x)
    _close(whole[:, :HORIZON_STEP], without[:, :HORIZON_STEP])
    assert (whole - without)[:, 2 * HORIZON_STEP :].abs().amax() > 1e-3


@torch.no_grad()
def test_a_slots_position_is_the_mean_of_its_tokens(window=9):
    mixer = _mixer({"window": window, "read": "adapted"}, slot_horizon=1000)
    x = _input(50)
    _, state = mixer(x)
    _, resp = mixer.responsibilities(x)
    resp = resp[:, : 50 - window].double()
    at = torch.arange(50 - window, dtype=torch.float64).view(-1, 1, 1)
    _close(state.slot_position, (resp * at).sum(1) / resp.sum(1))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_of_both_forms_agree(options):
    mixer, x = _mixer(options), _input(26)
    weight = _input(26, seed=1)
    parameters = list(mixer.parameters())
    chunkwise = torch.autograd.grad((mixer(x)[0] * weight).sum(), parameters)
    steps, _ = _steps(mixer, x, mixer.initial_state(2, torch.float64, "cpu"))
    recurrent = torch.autograd.grad((steps * weight).sum(), parameters)
    for (name, _), a, b in zip(mixer.named_parameters(), chunkwise, recurrent, strict=True):
        assert float((a - b).abs().max() / (1 + b.abs().max())) < 1e-11, name
        assert float(b.abs().max()) > 0, name


@pytest.mark.parametrize("options", OPTIONS[-2:] + [{}], ids=str)
def test_gradients_match_central_differences(options):
    mixer, x, weight = _mixer(options), _input(20), _input(20, seed=1)
    for name, parameter in mixer.named_parameters():
        (gradient,) = torch.autograd.grad((mixer(x)[0] * weight).sum(), parameter)
        flat, original = parameter.data.view(-1), parameter.data.clone()
        for k in range(0, flat.numel(), max(1, flat.numel() // 3)):
            values = []
            for sign in (1, -1):
                flat[k] += sign * 1e-5
                with torch.no_grad():
                    values.append((mixer(x)[0] * weight).sum())
                parameter.data.copy_(original)
            numeric = (values[0] - values[1]) / 2e-5
            scale = max(1.0, float(gradient.abs().max()))
            assert abs(float(gradient.flatten()[k] - numeric)) / scale < 1e-7, name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_changing_a_token_leaves_earlier_outputs_bitwise_unchanged(options):
    mixer, x = _mixer(options, dtype=torch.float32), _input(100, dtype=torch.float32)
    base, _ = mixer(x)
    for j in (0, 30, 64, 99):
        changed = x.clone()
        changed[:, j] = _input(1, seed=7, dtype=torch.float32)[:, 0]
        out, _ = mixer(changed)
        assert bool((out[:, :j] == base[:, :j]).all())
        assert bool((out[:, j] != base[:, j]).any())


def _copy_shared(target: GmaMixer, source: GmaMixer) -> None:
    values = source.state_dict()
    for name, value in target.state_dict().items():
        if name in values and values[name].shape == value.shape:
            value.copy_(values[name])


@torch.no_grad()
def _neutral(mixer: GmaMixer) -> GmaMixer:
    """Sets every active option to the value at which it does nothing."""
    for name in ("slot_bias",):
        if hasattr(mixer, name):
            getattr(mixer, name).zero_()
    if hasattr(mixer, "forget_beta"):
        mixer.forget_beta.fill_(-60.0)
    if hasattr(mixer, "forget_a_log"):
        mixer.forget_a_log.fill_(-60.0)
    return mixer


@pytest.mark.parametrize("options", [{"forget": "head"}, {"forget": "write"}], ids=str)
@torch.no_grad()
def test_forgetting_that_forgets_nothing_is_plain(options):
    plain, mixer, x = _mixer({}), _mixer(options), _input(100)
    _copy_shared(mixer, plain)
    _close(_neutral(mixer)(x)[0], plain(x)[0])


@torch.no_grad()
def test_delta_kernel_of_the_routing_is_plain():
    plain, mixer, x = _mixer({}), _mixer({"short_conv": 4}), _input(50)
    _copy_shared(mixer, plain)
    mixer.conv_weight.zero_()
    mixer.conv_weight[:, -1] = 1.0
    projected = mixer._project(x, mixer.initial_state(2, torch.float64, "cpu").conv, 0)
    expected = plain._project(x, None, 0)
    _close(projected.route_q, expected.route_q)
    _close(projected.route_k, expected.route_k)
    _close(projected.value, torch.nn.functional.silu(expected.value))


@torch.no_grad()
def test_a_window_longer_than_the_text_is_full_attention():
    mixer, x = _mixer({"window": 64, "read": "adapted"}), _input(40)
    q = rotate(mixer.q_proj(x).unflatten(-1, (4, 6)), 0, 10000.0).transpose(1, 2)
    k = rotate(mixer.k_proj(x).unflatten(-1, (2, 6)), 0, 10000.0).transpose(1, 2)
    v = mixer.v_proj(x).unflatten(-1, (2, 6)).transpose(1, 2)
    full = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True
    )
    _close(mixer(x)[0], mixer.o_proj(full.transpose(1, 2).flatten(2)))


@torch.no_grad()
def test_static_read_without_a_window_does_not_depend_on_the_gauge():
    mixer, x = _mixer({}), _input(60)
    base, _ = mixer(x)
    mixer.prior_logits += 5.0
    _close(mixer(x)[0], base)


@torch.no_grad()
def test_grouped_heads_equal_repeated_memory_heads():
    grouped, full, x = _mixer({}), _mixer({}, num_memory_heads=4), _input(60)
    for name, value in full.state_dict().items():
        source = grouped.state_dict()[name]
        if source.shape != value.shape:
            parts = source.unflatten(0, (2, -1)).repeat_interleave(2, 0)
            source = parts.flatten(0, 1)
        value.copy_(source)
    _close(full(x)[0], grouped(x)[0])


@torch.no_grad()
def test_route_norm_out_norm_and_gate_are_what_they_say():
    plain = _mixer({})
    mixer = _mixer({"route_norm": True, "out_norm": True, "out_gate": True})
    _copy_shared(mixer, plain)
    x = _input(30)
    rms = lambda t, w: t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w  # noqa: E731
    route_k = rms(mixer.route_k_proj(x).unflatten(-1, (2, 5)), mixer.route_k_norm.weight)
    var = variance(mixer.component_omega, "bounded")
    matrix = score_matrix(mixer.component_mean, var, mixer.prior_logits)
    projected = mixer._project(x, None, 0)
    _close(
        mixer.write_scores(projected.route_k),
        matrix_scores(route_k[..., None, :], *matrix)[..., 0, :],
    )
    raw, _ = mixer._read_chunkwise(projected, mixer.initial_state(2, torch.float64, "cpu"))
    expected = rms(raw, mixer.out_norm.weight).flatten(2)
    gate = mixer.gate_proj(x)
    _close(mixer(x)[0], mixer.o_proj(expected * gate * torch.sigmoid(gate)))


def test_rotation_depends_on_differences_of_positions_alone():
    gen = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=gen, dtype=torch.float64)

    def product(i, j):
        return (rotate(q, i, 10000.0) * rotate(k, j, 10000.0)).sum()

    _close(product(7, 3), product(1_000_007, 1_000_003), 1e-9)
    assert abs(float(product(7, 3) - product(7, 4))) > 1e-3
    _close(rotate(q, 0, 10000.0), q)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_float32_is_near_float64(options):
    x = _input(300)
    exact, _ = _mixer(options)(x)
    low, _ = _mixer(options, dtype=torch.float32)(x.float())
    assert float((low - exact).abs().max()) < 1e-5
