"""Reads a base model out of its GGUF file: weights, sizes, tokenizer, chat roles.

GGUF keeps the rows of q and k of the llama architecture interleaved (pairs 2i, 2i+1); here they are
put back into the half-split order of Hugging Face, so that `llama.rotate` applies. Those of qwen2
are half-split already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from gma_torch.convert.base import (
    ConvertError,
    UnsupportedQuantizationError,
    UnsupportedRopeError,
    WrongArchitectureError,
    sha256,
)
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
    "output.weight": "lm_head.weight",
}
_PLAIN = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
_FAMILIES = ("llama", "qwen2")  # SmolLM2 and Mistral are written as llama
_CONTROL = 3  # GGUF token type of special tokens
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def _half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * v, ...] with interleaved rotation pairs -> half-split rows."""
    pairs = weight.reshape(heads, len(weight) // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def _name(gguf_name: str) -> str:
    """The Hugging Face name of a tensor; WrongArchitectureError if there is none."""
    if gguf_name in _TOP_NAMES:
        return _TOP_NAMES[gguf_name]
    parts = gguf_name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _LAYER_NAMES:
        if "rope_freqs" in gguf_name or "rope_factors" in gguf_name:
            raise UnsupportedRopeError(f"{gguf_name}: rope scaling is not supported")
        raise WrongArchitectureError(f"{gguf_name}: an unknown tensor")
    return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"


class GgufBase:
    """One open GGUF file of the `llama` or `qwen2` architecture."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._reader = gguf.GGUFReader(str(path))
        except (ValueError, IndexError, OSError) as error:
            raise ConvertError(f"{path}: not a readable GGUF file: {error}") from None
        self._family = self._optional("general.architecture")
        if self._family not in _FAMILIES:
            raise WrongArchitectureError(
                f"{path}: the architecture is {self._family!r}, must be one of "
                f"{', '.join(_FAMILIES)}"
            )
        self._check_rope()
        self._names = [_name(tensor.name) for tensor in self._reader.tensors]
        known = gguf.quants._type_traits.keys() | _PLAIN
        for tensor in self._reader.tensors:
            if tensor.tensor_type not in known:
                raise UnsupportedQuantizationError(
                    f"{path}: {tensor.name} is {tensor.tensor_type.name}, which cannot be read"
                )

    def _check_rope(self) -> None:
        kind = self._optional(f"{self._family}.rope.scaling.type", "none")
        width = self.config().head_dim
        turned = self._optional(f"{self._family}.rope.dimension_count", width)
        if kind != "none" or turned != width:
            raise UnsupportedRopeError(
                f"{self._path}: rope scaling {kind!r} over {turned} of {width} dimensions is not "
                "supported, only none over all"
            )

    def field(self, name: str) -> Any:
        """The value of a metadata field."""
        if name not in self._reader.fields:
            raise ConvertError(f"{self._path}: has no field {name}")
        return self._reader.fields[name].contents()

    def _optional(self, name: str, default: Any = None) -> Any:
        return self.field(name) if name in self._reader.fields else default

    def config(self) -> LlamaConfig:
        """Sizes of the model."""
        of = self._family
        heads, width = (
            self.field(f"{of}.attention.head_count"),
            self.field(f"{of}.embedding_length"),
        )
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        if "token_embd.weight" not in tensors:
            raise WrongArchitectureError(f"{self._path}: has no token_embd.weight")
        return LlamaConfig(
            vocab_size=int(tensors["token_embd.weight"].shape[-1]),
            hidden_size=width,
            num_layers=self.field(f"{of}.block_count"),
            num_heads=heads,
            num_kv_heads=self._optional(f"{of}.attention.head_count_kv", heads),
            head_dim=self._optional(f"{of}.attention.key_length", width // heads),
            intermediate_size=self.field(f"{of}.feed_forward_length"),
            # The file holds float32; the nearest short decimal is what was meant (1e-5).
            rms_norm_eps=float(f"{self.field(f'{of}.attention.layer_norm_rms_epsilon'):.6g}"),
            rope_theta=self._optional(f"{of}.rope.freq_base", 10000.0),
            tied="output.weight" not in tensors,
            sliding_window=self._optional(f"{of}.attention.sliding_window"),
            positions=self._optional(f"{of}.context_length"),
        )

    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(int(tensor.n_elements) for tensor in self._reader.tensors)

    def biased(self) -> bool:
        """Whether projections have biases."""
        return any(name.endswith(".bias") for name in self._names)

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self._path)

    def weights(self) -> dict[str, Tensor]:
        """All tensors in float32 under Hugging Face names, [out, in]."""
        config = self.config()
        out: dict[str, Tensor] = {}
        for name, tensor in zip(self._names, self._reader.tensors, strict=True):
            data = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if self._family == "llama" and ".attn_q." in tensor.name:
                data = _half_split(data, config.num_heads)
            elif self._family == "llama" and ".attn_k." in tensor.name:
                data = _half_split(data, config.num_kv_heads)
            out[name] = torch.from_numpy(np.array(data))
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
