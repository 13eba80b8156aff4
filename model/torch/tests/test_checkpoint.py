"""Model directories: round trip, shards, refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gma_torch.checkpoint import INDEX, WEIGHTS, CheckpointError, save_model
from gma_torch.config import GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.testing import random_model

_CONFIG = GmaConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_memory_heads=2,
    head_dim=4,
    num_components=5,
    routing_dim=3,
    intermediate_size=24,
)
_EVERYTHING = {
    "window": [8, 0],
    "read": ["adapted", "static"],
    "short_conv": 3,
    "forget": ["write", "head"],
    "route_norm": True,
    "out_norm": True,
    "out_gate": True,
}


@pytest.fixture
def saved(tmp_path):
    model = random_model(_CONFIG.with_options(**_EVERYTHING), 0)
    save_model(model, tmp_path)
    return model, tmp_path


@torch.no_grad()
def test_round_trip_keeps_every_bit(saved):
    model, path = saved
    again = GmaDecoder.from_directory(path)
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    tokens = torch.arange(20).unsqueeze(0)
    assert torch.equal(again(tokens), model(tokens))


def test_names_and_shapes_are_those_of_the_design(saved):
    _, path = saved
    shapes = {name: tuple(value.shape) for name, value in load_file(path / WEIGHTS).items()}
    vocab, d, heads, groups, v, k, r, f, w = 40, 16, 4, 2, 4, 5, 3, 24, 3
    expected = {
        "model.embed_tokens.weight": (vocab, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (vocab, d),
    }
    for layer, adapted in ((0, True), (1, False)):
        prefix = f"model.layers.{layer}."
        mixer = {
            "route_k_proj.weight": (groups * r, d),
            "v_proj.weight": (groups * v, d),
            "o_proj.weight": (d, heads * v),
            "component_mean": (groups, k, r),
            "component_omega": (groups, k, r),
            "prior_logits": (groups, k),
            "conv_weight": ((0 if adapted else heads * r) + groups * (r + v), w),
            "route_k_norm.weight": (r,),
            "out_norm.weight": (v,),
            "gate_proj.weight": (heads * v, d),
        }
        if adapted:
            mixer |= {
                "q_proj.weight": (heads * v, d),
                "k_proj.weight": (groups * v, d),
                "slot_bias": (heads, k),
                "slot_scale": (heads,),
                "forget_beta": (groups,),
            }
        else:
            mixer |= {
                "route_q_proj.weight": (heads * r, d),
                "route_q_norm.weight": (r,),
                "forget_proj.weight": (groups, d),
                "forget_bias": (groups,),
                "forget_a_log": (groups,),
            }
        expected |= {prefix + "mixer." + name: shape for name, shape in mixer.items()}
        expected |= {
            prefix + "input_layernorm.weight": (d,),
            prefix + "post_attention_layernorm.weight": (d,),
            prefix + "mlp.gate_proj.weight": (f, d),
            prefix + "mlp.up_proj.weight": (f, d),
            prefix + "mlp.down_proj.weight": (d, f),
        }
    assert shapes == expected


def test_shards_with_an_index_are_read(saved):
    model, path = saved
    tensors = load_file(path / WEIGHTS)
    (path / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, path / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    again = GmaDecoder.from_directory(path)
    assert torch.equal(again.model.norm.weight, model.model.norm.weight)
    (path / INDEX).write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside"):
        GmaDecoder.from_directory(path)


def _change(path, edit):
    tensors = load_file(path / WEIGHTS)
    edit(tensors)
    save_file(tensors, path / WEIGHTS)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not a tensor of this"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), r"shape \(3,\), must be \(16"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(16, dtype=torch.int32)}),
            "model.norm.weight has type I32",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.full((16,), float("nan"))}),
            "model.norm.weight holds a value that is not finite",
        ),
    ],
)
def test_broken_weights_are_refused_by_name(saved, edit, message):
    _, path = saved
    _change(path, edit)
    with pytest.raises(CheckpointError, match=message):
        GmaDecoder.from_directory(path)


def test_a_truncated_or_absent_file_is_refused(saved):
    _, path = saved
    content = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=WEIGHTS):
        GmaDecoder.from_directory(path)
    (path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="neither"):
        GmaDecoder.from_directory(path)


def test_bfloat16_weights_can_be_computed_in_any_type(tmp_path):
    config = GmaConfig.from_dict(_CONFIG.to_dict() | {"torch_dtype": "bfloat16"})
    model = random_model(config, 1)
    save_model(model, tmp_path)
    assert load_file(tmp_path / WEIGHTS)["model.norm.weight"].dtype == torch.bfloat16
    wide = GmaDecoder.from_directory(tmp_path, torch.float64)
    assert torch.equal(wide.model.norm.weight.float(), model.model.norm.weight)
    half = GmaDecoder.from_directory(tmp_path, torch.bfloat16)
    tokens = torch.arange(30).unsqueeze(0)
    with torch.no_grad():
        _, state = half.prefill(tokens, half.initial_state(1))
        exact = wide(tokens)
        difference = half(tokens).double() - exact
    assert state.layers[0].mass.dtype == torch.float64
    assert state.layers[0].memory.dtype == torch.float32
    assert float(difference.square().mean().sqrt() / exact.std()) < 0.05
