"""Bases of other families: the logits of transformers from both file forms; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gma_torch.checkpoint import load_model
from gma_torch.convert import run as run_module
from gma_torch.convert.apply import apply_delta
from gma_torch.convert.base import (
    ConvertError,
    MissingFileError,
    NotEnoughMemoryError,
    NotServableError,
    UnsupportedQuantizationError,
    UnsupportedRopeError,
    WrongArchitectureError,
)
from gma_torch.convert.cli import main
from gma_torch.convert.run import window_rows
from gma_torch.convert.source import chatml_roles, open_base, require_servable
from gma_torch.evaluate.scoring import state_bytes
from gma_torch.llama import Llama
from gma_torch.tokenizer import save_tokenizer, train_tokenizer

FOLDER = Path(__file__).resolve().parent / "families"
FAMILIES = ["smollm2", "llama", "qwen2", "mistral"]
_GGUF_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _write_gguf(folder: Path, path: Path) -> None:
    """The model of `folder` as llama.cpp's converter writes it."""
    raw = json.loads((folder / "config.json").read_text())
    family = "qwen2" if raw["model_type"] == "qwen2" else "llama"
    writer = gguf.GGUFWriter(str(path), family)
    width = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    writer.add_block_count(raw["num_hidden_layers"])
    writer.add_embedding_length(raw["hidden_size"])
    writer.add_feed_forward_length(raw["intermediate_size"])
    writer.add_head_count(raw["num_attention_heads"])
    writer.add_head_count_kv(raw["num_key_value_heads"])
    writer.add_key_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(raw["rms_norm_eps"])
    writer.add_rope_freq_base(raw["rope_parameters"]["rope_theta"])
    writer.add_context_length(raw["max_position_embeddings"])
    if raw["model_type"] == "mistral":
        writer.add_sliding_window(raw["sliding_window"])
    top = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
           "model.norm.weight": "output_norm.weight"}  # fmt: skip
    for name, value in load_file(folder / "model.safetensors").items():
        data = value.numpy()
        if name in top:
            writer.add_tensor(top[name], data)
            continue
        _, _, layer, kind = name.split(".", 3)
        kind, last = kind.rsplit(".", 1)
        if family == "llama" and kind in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = len(data) // width
            pairs = data.reshape(heads, 2, width // 2, -1).swapaxes(1, 2)
            data = np.ascontiguousarray(pairs).reshape(data.shape)
        writer.add_tensor(f"blk.{layer}.{_GGUF_NAMES[kind]}.{last}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_computes_what_transformers_does(
    family: str, form: str, tmp_path: Path
) -> None:
    path = FOLDER / family
    if form == "gguf":
        path = tmp_path / "base.gguf"
        _write_gguf(FOLDER / family, path)
    base = open_base(path)
    assert base.biased() == (family == "qwen2")
    assert base.config().positions == 128
    weights = base.weights()
    assert base.parameters() == sum(w.numel() for w in weights.values())
    model, want = Llama(base.config(), weights), load_file(FOLDER / f"{family}.safetensors")
    got = model.logits(model.hidden(want["tokens"], model.attention))
    torch.testing.assert_close(got, want["logits"], rtol=0, atol=1e-4)
    assert want["logits"].abs().max() > 1  # logits that could differ


def _copy(family: str, to: Path, **changes: object) -> Path:
    """A copy with other entries of config.json and a tokenizer that the server reads."""
    shutil.copytree(FOLDER / family, to)
    save_tokenizer(train_tokenizer(iter(["the cat " * 5]), 300), to)
    raw = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(raw))
    return to


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "gpt2"}, WrongArchitectureError, "'gpt2', must be one of llama, qwen2"),
        ({"hidden_act": "gelu"}, WrongArchitectureError, "hidden_act is 'gelu'"),
        ({"intermediate_size": 40}, WrongArchitectureError, r"mlp.gate_proj.weight is \[48, 32\]"),
        ({"num_hidden_layers": 3}, WrongArchitectureError, "layers.2.input_.* is missing"),
        ({"num_hidden_layers": 1}, WrongArchitectureError, "unknown tensor model.layers.1"),
        ({"rope_parameters": {"rope_type": "llama3"}}, UnsupportedRopeError, "scaling 'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, UnsupportedRopeError,
         "scaling 'linear'"),
        ({"quantization_config": {}}, UnsupportedQuantizationError, "quantization_config"),
    ],
)  # fmt: skip
def test_a_foreign_config_is_refused(
    changes: dict, error: type, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        open_base(_copy("smollm2", tmp_path / "m", **changes))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file or folder"):
        open_base(tmp_path / "none")
    with pytest.raises(MissingFileError, match="config.json"):
        open_base(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"nonsense" * 10)
    with pytest.raises(ConvertError, match="not a readable GGUF file"):
        open_base(tmp_path / "a.gguf")
    folder = _copy("llama", tmp_path / "m")
    packed = load_file(folder / "model.safetensors")
    packed["model.norm.weight"] = packed["model.norm.weight"].to(torch.int8)
    save_file(packed, folder / "model.safetensors")
    with pytest.raises(UnsupportedQuantizationError, match="model.norm.weight is I8"):
        open_base(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConvertError, match="not a readable safetensors file"):
        open_base(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="no \\*.safetensors"):
        open_base(folder)


def test_a_foreign_gguf_is_refused(tmp_path: Path) -> None:
    def write(name: str, family: str, add: object = None) -> Path:
        writer = gguf.GGUFWriter(str(tmp_path / name), family)
        writer.add_head_count(4)
        writer.add_embedding_length(32)
        writer.add_block_count(1)
        writer.add_feed_forward_length(8)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
        if add:
            add(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    with pytest.raises(WrongArchitectureError, match="'gemma', must be one of llama, qwen2"):
        open_base(write("a.gguf", "gemma"))
    scaled = write("b.gguf", "llama",
                   lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN))  # fmt: skip
    with pytest.raises(UnsupportedRopeError, match="rope scaling 'yarn'"):
        open_base(scaled)
    ones = np.ones(4, np.float32)
    factors = write("c.gguf", "llama", lambda w: w.add_tensor("rope_freqs.weight", ones))
    with pytest.raises(UnsupportedRopeError, match="rope_freqs"):
        open_base(factors)
    odd = write("d.gguf", "llama", lambda w: w.add_tensor(
        "blk.0.attn_q.weight", np.zeros((4, 40), np.uint8),
        raw_dtype=gguf.GGMLQuantizationType.Q8_1, raw_shape=(4, 40)))  # fmt: skip
    with pytest.raises(UnsupportedQuantizationError, match="attn_q.weight is Q8_1"):
        open_base(odd)


def test_what_could_not_be_served_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(NotServableError, match="projections have biases"):
        require_servable(open_base(_copy("qwen2", tmp_path / "q")), "q")
    folder = _copy("llama", tmp_path / "l")
    require_servable(open_base(folder), "l")
    content = json.loads((folder / "tokenizer.json").read_text())
    for change, message in (
        ({"model": {**content["model"], "byte_fallback": True}}, "BPE with byte fallback"),
        ({"model": {"type": "Unigram"}}, "the model is Unigram"),
        ({"normalizer": {"type": "NFC"}}, "it normalises"),
        ({"pre_tokenizer": {"type": "Split"}}, "it splits with Split"),
    ):
        (folder / "tokenizer.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(NotServableError, match=message):
            require_servable(open_base(folder), "l")


def test_chat_roles_of_a_template() -> None:
    assert chatml_roles("{{ '[INST]' }}") is None
    roles = chatml_roles("<|im_start|>system\nYou are a helpful assistant.<|im_end|>")
    assert roles["default_system"] == "You are a helpful assistant."
    assert roles["roles"]["user"] == {"prefix": "<|im_start|>user\n", "suffix": "<|im_end|>\n"}


class _Text:
    """Random tokens in the place of the text mixture."""

    def __init__(self, *unused: object) -> None:
        pass

    def sequence(self, index: int, length: int) -> list[int]:
        gen = torch.Generator().manual_seed(index)
        return torch.randint(3, 60, (length,), generator=gen).tolist()


RECIPE = {
    "window": [8, 16], "components": 4, "routing_dim": 4, "start_sequences": 1, "start_length": 64,
    "stages": [{"sequences": 1, "length": 48, "steps": 2}], "teacher_dtype": "float32",
    "threads": 1, "end_to_end": {"steps": 2, "accumulate": 1, "length": 48, "adapter_rank": 2},
}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_family_is_converted_from_end_to_end(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """train, apply, windows; the directory loads and computes, untied head included."""
    monkeypatch.setattr(run_module, "Mixture", _Text)
    base = _copy(family, tmp_path / "base")
    recipe, delta = tmp_path / "recipe.json", tmp_path / "delta.safetensors"
    recipe.write_text(json.dumps(RECIPE))
    flags = ["--base", str(base), "--data", str(tmp_path), "--recipe", str(recipe)]
    train = ["train", *flags, "--work", str(tmp_path / "work"), "--out", str(delta)]
    assert main(train) == 0
    assert apply_delta(delta, tmp_path / "model", tmp_path, base=base)
    model = load_model(tmp_path / "model")
    assert not model.config.tie_word_embeddings
    assert model.config.slot_horizon == 128  # the base's positions
    assert torch.isfinite(model(torch.tensor([_Text().sequence(0, 40)]))).all()
    # Scales change matrices and no result.
    even = tmp_path / "even.safetensors"
    assert main(["balance", *flags[:4], "--delta", str(delta), "--out", str(even)]) == 0
    assert apply_delta(even, tmp_path / "even", tmp_path, base=base)
    other, tokens = load_model(tmp_path / "even"), torch.tensor([_Text().sequence(0, 40)])
    torch.testing.assert_close(other(tokens), model(tokens), rtol=1e-4, atol=1e-5)
    changed = [n for n, w in other.named_parameters() if not torch.equal(w, model.get_parameter(n))]
    kinds = {name.split(".", 3)[3] for name in changed}
    assert kinds >= {"mixer.q_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
    # A run goes on with that delta's low-rank updates, but not where they would be lost.
    again = [*train[:-4], "--out", str(tmp_path / "again.safetensors"), "--start", str(delta)]
    assert main([*again, "--work", str(tmp_path / "w1")]) == 0
    recipe.write_text(json.dumps({**RECIPE, "end_to_end": None, "slot_horizon": 0}))
    assert main([*again, "--work", str(tmp_path / "w2")]) == 2
    assert "has low-rank updates, and" in capsys.readouterr().err
    assert main([*train[:-4], "--work", str(tmp_path / "w3"), "--out", str(delta)]) == 0
    assert apply_delta(delta, tmp_path / "model", tmp_path, base=base)
    assert load_model(tmp_path / "model").config.slot_horizon is None
    windows = ["windows", *flags, "--delta", str(delta), "--sequences", "1",
               "--out", str(tmp_path / "w.json"), "--megabytes", "0.02"]  # fmt: skip
    assert main(windows) == 0
    shared = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("{"))
    chosen = json.loads(shared)["window"]
    assert len(chosen) == 2
    config = model.config.with_options(window=chosen)
    assert state_bytes(config) <= 20_000
    assert sum(chosen) <= window_rows(
        open_base(base).config(), run_module.Recipe.load(recipe), 0.02
    )


def test_too_little_memory_is_said_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _copy("llama", tmp_path / "base")
    monkeypatch.setattr(run_module, "Mixture", _Text)
    monkeypatch.setattr("gma_torch.convert.source.SafetensorsBase.parameters", lambda _: 10**14)
    monkeypatch.setattr("gma_torch.convert.source.SafetensorsBase.weights", lambda _: 1 / 0)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    with pytest.raises(NotEnoughMemoryError, match=r"about 1200000\.0 GB needed"):
        run_module._opened(base, recipe, tmp_path)
