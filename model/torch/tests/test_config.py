"""config.json: read, validated, written."""

import json

import pytest

from gma_torch.config import PRESETS, ConfigError, GmaConfig, LayerOptions

_DATA = {
    "model_type": "gma",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 4,
    "num_components": 5,
    "routing_dim": 3,
    "intermediate_size": 24,
}


def _read(**changes):
    return GmaConfig.from_dict(_DATA | changes)


def test_defaults_are_plain_gma():
    config = _read()
    assert config.num_memory_heads == 4
    assert config.layers == (LayerOptions(),) * 3
    assert config.to_dict()["gma"] == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_round_trip(preset, tmp_path):
    config = _read(num_memory_heads=2, eos_token_id=[1, 2], gma=PRESETS[preset])
    config.save(tmp_path)
    assert GmaConfig.from_directory(tmp_path) == config
    assert json.loads((tmp_path / "config.json").read_text())["gma"] == PRESETS[preset]


def test_options_are_one_value_or_one_a_layer():
    config = _read(gma={"window": [0, 8, 0], "forget": "write"})
    assert [layer.window for layer in config.layers] == [0, 8, 0]
    assert {layer.forget for layer in config.layers} == {"write"}
    assert GmaConfig.from_dict(config.to_dict()) == config


def test_unknown_keys_are_ignored_outside_gma_and_refused_inside():
    assert _read(transformers_version="5.0") == _read()
    with pytest.raises(ConfigError, match=r"gma\.windows"):
        _read(gma={"windows": 3})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "llama"}, "model_type = 'llama'"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"hidden_size": 16.0}, "hidden_size = 16.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True"),
        ({"num_memory_heads": 3}, "num_memory_heads = 3, must divide"),
        ({"head_dim": 5}, "head_dim = 5"),
        ({"rms_norm_eps": 0}, "rms_norm_eps = 0"),
        ({"rope_theta": float("nan")}, "rope_theta = nan"),
        ({"slot_horizon": 0}, "slot_horizon = 0"),
        ({"slot_horizon": 4096.0}, "slot_horizon = 4096.0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"torch_dtype": "int8"}, "torch_dtype = 'int8'"),
        ({"eos_token_id": [3, 100]}, r"eos_token_id = \[3, 100\]"),
        ({"gma": []}, r"gma = \[\], must be an object"),
        ({"gma": {"window": -1}}, r"gma\.window = -1"),
        ({"gma": {"window": [1, 2]}}, r"gma\.window lists 2 values, must be 3"),
        ({"gma": {"route": "key"}}, r"gma\.route = 'key' \(layer 0\), must be 'projected' with"),
        ({"gma": {"route": "value", "read": "adapted"}}, r"gma\.route = 'value'"),
        ({"gma": {"short_conv": 1}}, r"gma\.short_conv = 1"),
        ({"gma": {"read": "raw"}}, r"gma\.read = 'raw'"),
        ({"gma": {"forget": ["none", "slot", "none"]}}, r"gma\.forget = 'slot' \(layer 1\)"),
        ({"gma": {"var_param": None}}, r"gma\.var_param = None"),
        ({"gma": {"out_gate": 1}}, r"gma\.out_gate = 1"),
    ],
)
def test_bad_values_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        _read(**changes)


def test_missing_key_file_and_syntax_are_named(tmp_path):
    with pytest.raises(ConfigError, match="'routing_dim'"):
        GmaConfig.from_dict({k: v for k, v in _DATA.items() if k != "routing_dim"})
    with pytest.raises(ConfigError, match="No such file"):
        GmaConfig.from_directory(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        GmaConfig.from_directory(tmp_path)
