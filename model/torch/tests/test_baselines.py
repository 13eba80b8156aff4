"""Baselines: each against its plain definition in float64, causal, split anywhere, bytes, sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from gma_torch.baselines.build import (
    BASELINES,
    MIXERS,
    build_decoder,
    match_parameters,
    new_decoder,
    parameter_count,
    state_bytes,
)
from gma_torch.baselines.favor import orthogonal_features
from gma_torch.config import PRESETS, ConfigError, GmaConfig
from gma_torch.rope import rotate

WIDTH, HEADS, GROUPS, V, K, WINDOW = 24, 4, 2, 6, 10, 7


def _config(**options):
    return GmaConfig(
        vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        num_memory_heads=GROUPS, head_dim=V, num_components=K, routing_dim=4,
        intermediate_size=40, tie_word_embeddings=True,
    ).with_options(**options)  # fmt: skip


def _mixer(kind, seed=0):
    torch.manual_seed(seed)
    mixer = BASELINES[kind](_config(window=WINDOW), 0).double()
    with torch.no_grad():
        for value in mixer.parameters():
            value.copy_(torch.randn_like(value) * (0.3 if value.dim() == 1 else WIDTH**-0.5))
    return mixer


def _heads(mixer, x):
    q = mixer.q_proj(x).unflatten(-1, (HEADS, V))
    k, value = (p(x).unflatten(-1, (GROUPS, V)) for p in (mixer.k_proj, mixer.v_proj))
    return q, *(a.repeat_interleave(HEADS // GROUPS, 2) for a in (k, value))


def _softmax(mixer, x, reach=math.inf):
    """Full matrix with a mask."""
    q, k, value = _heads(mixer, x)
    q, k = rotate(q, 0, mixer.rope_theta), rotate(k, 0, mixer.rope_theta)
    logits = torch.einsum("bihv,bjhv->bhij", q, k) / math.sqrt(V)
    i = torch.arange(x.shape[1])
    gap = i.unsqueeze(1) - i
    logits = logits.masked_fill((gap < 0) | (gap >= reach), -math.inf)
    out = torch.einsum("bhij,bjhv->bihv", torch.softmax(logits, -1), value)
    return mixer.o_proj(out.flatten(2))


def _linear(mixer, x, phi):
    """Full matrix of feature products."""
    q, k, value = _heads(mixer, x)
    affinity = torch.einsum("bihm,bjhm->bhij", phi(q), phi(k)).tril()
    affinity = affinity / affinity.sum(-1, keepdim=True)
    return mixer.o_proj(torch.einsum("bhij,bjhv->bihv", affinity, value).flatten(2))


def _favor_features(mixer):
    def phi(x):
        scaled = x / V**0.25
        w = mixer.directions.double()
        return torch.exp(scaled @ w.T - scaled.square().sum(-1, keepdim=True) / 2) / K**0.5

    return phi


def _ssd(mixer, x):
    """Token by token, as the paper writes it."""
    raw, inner = mixer.x_proj(x), HEADS * V
    padded = F.pad(raw, (0, 0, 3, 0))
    taps = [padded[:, n : n + x.shape[1]] * mixer.conv_weight[:, n] for n in range(4)]
    content, write, read = F.silu(sum(taps)).split([inner, K, K], -1)
    content = content.unflatten(-1, (HEADS, V))
    dt = F.softplus(mixer.dt_proj(x) + mixer.dt_bias)
    state, out = torch.zeros(x.shape[0], HEADS, K, V, dtype=x.dtype), []
    for t in range(x.shape[1]):
        kept = torch.exp(-torch.exp(mixer.a_log) * dt[:, t])[..., None, None]
        outer = torch.einsum("bn,bhv->bhnv", write[:, t], dt[:, t].unsqueeze(-1) * content[:, t])
        state = kept * state + outer
        y = torch.einsum("bn,bhnv->bhv", read[:, t], state)
        out.append((y + mixer.skip.unsqueeze(-1) * content[:, t]).flatten(1))
    gated = torch.stack(out, 1) * F.silu(mixer.gate_proj(x))
    eps = mixer.out_norm.eps
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    return mixer.o_proj(normed * mixer.out_norm.weight)


DEFINITIONS = {
    "softmax": _softmax,
    "window": lambda mixer, x: _softmax(mixer, x, WINDOW),
    "linear_elu": lambda mixer, x: _linear(mixer, x, lambda y: F.elu(y) + 1),
    "favor": lambda mixer, x: _linear(mixer, x, _favor_features(mixer)),
    "ssd": _ssd,
}


@pytest.mark.parametrize("tokens", [1, 5, 64, 150])
@pytest.mark.parametrize("kind", BASELINES)
@torch.no_grad()
def test_equals_its_definition(kind, tokens):
    mixer, x = _mixer(kind), torch.randn(2, tokens, WIDTH, dtype=torch.float64)
    got, _ = mixer(x)
    # An eps of 1e-12 stands in the denominator of the linear ones alone.
    tolerance = 1e-8 if kind in ("linear_elu", "favor") else 1e-11
    torch.testing.assert_close(got, DEFINITIONS[kind](mixer, x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", BASELINES)
@torch.no_grad()
def test_split_anywhere_or_step_by_step(kind):
    mixer, x = _mixer(kind), torch.randn(2, 90, WIDTH, dtype=torch.float64)
    whole, _ = mixer(x)
    for cuts in ([13, 90], [1, 2, 70, 90]):
        state, begin, parts = None, 0, []
        for end in cuts:
            out, state = mixer(x[:, begin:end], state, begin)
            parts.append(out)
            begin = end
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)
    state = mixer.initial_state(2, torch.float64, "cpu")
    for t in range(20):
        out, state = mixer.step(x[:, t], state, t)
        torch.testing.assert_close(out, whole[:, t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BASELINES)
@torch.no_grad()
def test_is_causal_bit_for_bit(kind):
    mixer, x = _mixer(kind).float(), torch.randn(1, 100, WIDTH)
    before, _ = mixer(x)
    x[:, 71] += 5.0
    after, _ = mixer(x)
    assert torch.equal(before[:, :71], after[:, :71])
    assert not torch.equal(before[:, 71], after[:, 71])


@pytest.mark.parametrize("tokens", [3, 40])
@pytest.mark.parametrize("kind", MIXERS)
@torch.no_grad()
def test_state_bytes_are_those_of_the_tensors(kind, tokens):
    config = _config(window=WINDOW) if kind == "window" else _config(short_conv=4)
    model = new_decoder(config, kind, 0)
    state = model.initial_state(1)
    _, state = model.prefill(torch.randint(0, 50, (1, tokens)), state)

    def size(layer):
        tensors = layer if isinstance(layer, tuple) else vars(layer).values()
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    assert state_bytes(config, kind, tokens) == sum(size(layer) for layer in state.layers)


def test_random_features_estimate_the_softmax_kernel():
    """Over many directions the product of features comes to exp(<q, k> / sqrt(v))."""
    torch.manual_seed(0)
    q, k = 0.6 * torch.randn(2, 5, V, dtype=torch.float64)  # the variance grows like exp |q + k|^2
    w = orthogonal_features(200_000, V, 1)

    def phi(x):
        x = x / V**0.25
        return torch.exp(x @ w.T - x.square().sum(-1, keepdim=True) / 2) / len(w) ** 0.5

    torch.testing.assert_close(phi(q) @ phi(k).T, torch.exp(q @ k.T / V**0.5), rtol=0.02, atol=0)
    block = orthogonal_features(V, V, 0)
    gram = block @ block.T
    assert float((gram - gram.diag().diag()).abs().max()) < 1e-12


@pytest.mark.parametrize("kind", MIXERS)
def test_parameters_can_be_matched(kind):
    config = _config(**{**PRESETS["from_scratch"], "window": 8 if kind == "window" else 0})
    target = parameter_count(_config(), "softmax") + 20_000
    matched = match_parameters(config, kind, target)
    got = sum(p.numel() for p in build_decoder(matched, kind).parameters())
    assert abs(got - target) <= 3 * WIDTH  # half of one unit of MLP width, two layers


@pytest.mark.parametrize("kind", MIXERS)
def test_every_parameter_gets_a_gradient(kind):
    model = new_decoder(_config(window=5) if kind == "window" else _config(), kind, 0)
    tokens = torch.randint(0, 50, (2, 40))
    logits = model(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and bool(torch.isfinite(value.grad).all()), name
    assert math.log(50) == pytest.approx(float(F.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten()).detach()), abs=0.3)  # fmt: skip


def test_a_wrong_mixer_is_named():
    with pytest.raises(ConfigError, match="must be one of gma, softmax"):
        build_decoder(_config(), "mamba")
    with pytest.raises(ConfigError, match=r"gma.window = 0 \(layer 0\)"):
        build_decoder(_config(), "window")
    with pytest.raises(ConfigError, match="parameters more than 10"):
        match_parameters(_config(), "ssd", 10)
