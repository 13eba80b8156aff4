"""Reads the base model out of its GGUF file: weights, sizes, tokenizer, chat roles.

GGUF keeps the rows of q and k interleaved (pairs 2i, 2i+1); here they are put back into the
half-split order of Hugging Face, so that `llama.rotate` applies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from gma_torch.llama import LlamaConfig

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
_CONTROL = 3  # GGUF token type of special tokens
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def _half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """[heads * v, d] with interleaved rotation pairs -> half-split rows."""
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, width)


def _name(gguf_name: str) -> str:
    if gguf_name in _TOP_NAMES:
        return _TOP_NAMES[gguf_name]
    _, layer, kind, _ = gguf_name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"


class GgufBase:
    """One open GGUF file of the `llama` architecture."""

    def __init__(self, path: Path) -> None:
        self._reader = gguf.GGUFReader(str(path))
        if self.field("general.architecture") != "llama":
            raise ValueError(f"{path}: not a GGUF file of the llama architecture")

    def field(self, name: str) -> Any:
        """The value of a metadata field."""
        return self._reader.fields[name].contents()

    def config(self) -> LlamaConfig:
        """Sizes of the model."""
        heads = self.field("llama.attention.head_count")
        width = self.field("llama.embedding_length")
        return LlamaConfig(
            vocab_size=self.field("llama.vocab_size"),
            hidden_size=width,
            num_layers=self.field("llama.block_count"),
            num_heads=heads,
            num_kv_heads=self.field("llama.attention.head_count_kv"),
            head_dim=width // heads,
            intermediate_size=self.field("llama.feed_forward_length"),
            # The file holds float32; the nearest short decimal is what was meant (1e-5).
            rms_norm_eps=float(f"{self.field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
            rope_theta=self.field("llama.rope.freq_base"),
        )

    def weights(self) -> dict[str, Tensor]:
        """All tensors in float32 under Hugging Face names, [out, in]."""
        config = self.config()
        out: dict[str, Tensor] = {}
        for tensor in self._reader.tensors:
            data = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if ".attn_q." in tensor.name:
                data = _half_split(data, config.num_heads)
            elif ".attn_k." in tensor.name:
                data = _half_split(data, config.num_kv_heads)
            out[_name(tensor.name)] = torch.from_numpy(np.array(data))
        return out

    def tokenizer_json(self) -> str:
        """`tokenizer.json` of Hugging Face `tokenizers`, rebuilt from the file's fields."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = self.field("tokenizer.ggml.tokens")
        kinds = self.field("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
        tokenizer.add_special_tokens(
            [AddedToken(t, special=True, normalized=False) for t in special]
        )
        return tokenizer.to_str(pretty=True)

    def tokenizer_config(self) -> dict[str, Any]:
        """Standard keys, and the chat roles under `gma_chat`."""
        tokens = self.field("tokenizer.ggml.tokens")
        roles = {
            role: {"prefix": f"<|im_start|>{role}\n", "suffix": "<|im_end|>\n"}
            for role in ("system", "user", "assistant")
        }
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[self.field("tokenizer.ggml.bos_token_id")],
            "eos_token": tokens[self.field("tokenizer.ggml.eos_token_id")],
            "pad_token": tokens[self.field("tokenizer.ggml.padding_token_id")],
            "unk_token": tokens[self.field("tokenizer.ggml.unknown_token_id")],
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.field("llama.context_length"),
            "chat_template": self.field("tokenizer.chat_template"),
            "gma_chat": {
                "default_system": DEFAULT_SYSTEM,
                "roles": roles,
                "generation_prefix": "<|im_start|>assistant\n",
            },
        }

    def special_ids(self) -> dict[str, int]:
        """bos, eos and pad token ids."""
        return {
            "bos_token_id": self.field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.field("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self.field("tokenizer.ggml.padding_token_id"),
        }

    def write_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
        (folder / "tokenizer.json").write_text(self.tokenizer_json(), encoding="utf-8")
        for name, content in (
            ("tokenizer_config.json", self.tokenizer_config()),
            ("generation_config.json", self.special_ids()),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
