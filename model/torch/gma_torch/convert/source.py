"""A model to convert, from a GGUF file or a folder of safetensors: SmolLM2, Llama, Qwen2, Mistral.

Both kinds give sizes, float32 weights under Hugging Face names with half-split rotation, and the
tokenizer. What is wrong with a base is said before a weight is read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gma_torch.convert.base import (
    ConvertError,
    MissingFileError,
    NotServableError,
    UnsupportedQuantizationError,
    UnsupportedRopeError,
    WrongArchitectureError,
    sha256,
)
from gma_torch.llama import LlamaConfig

FAMILIES = ("llama", "qwen2", "mistral")
_DTYPES = ("F32", "F16", "BF16", "F64")
_CHATML = "<|im_start|>"
# Systems that a chat template puts in when a conversation has none of its own.
_DEFAULT_SYSTEMS = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "You are a helpful assistant.",
)


class BaseModel(Protocol):
    """What a conversion needs of its base."""

    def config(self) -> LlamaConfig:
        """Sizes of the model."""
        ...

    def parameters(self) -> int:
        """Numbers in all tensors."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """All tensors in float32 under Hugging Face names, [out, in]."""
        ...

    def biased(self) -> bool:
        """Whether projections have biases."""
        ...

    def tokenizer_json(self) -> str:
        """`tokenizer.json` of Hugging Face `tokenizers`."""
        ...

    def special_ids(self) -> dict[str, int]:
        """bos, eos and pad token ids."""
        ...

    def write_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the weights."""
        ...


def open_base(path: Path) -> BaseModel:
    """A GGUF file, or a folder with config.json, tokenizer.json and safetensors."""
    if path.is_dir():
        return SafetensorsBase(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file or folder")
    if path.suffix != ".gguf":
        raise WrongArchitectureError(f"{path}: must be a .gguf file or a folder of safetensors")
    from gma_torch.gguf_base import GgufBase

    return GgufBase(path)


def require_servable(base: BaseModel, name: str) -> None:
    """NotServableError unless the decoder and the tokenizer of the server can run the result."""
    if base.biased():
        raise NotServableError(
            f"{name}: its projections have biases (Qwen2); the decoder has none for q, k and v, "
            "so the converted model could not be served"
        )
    if reason := _foreign_tokenizer(json.loads(base.tokenizer_json())):
        raise NotServableError(f"{name}: tokenizer.json: {reason}; the server could not read it")


def _foreign_tokenizer(content: dict[str, Any]) -> str:
    """Why the server's tokenizer would refuse the file; empty if it would not."""
    kind = (content.get("model") or {}).get("type")
    if kind != "BPE" or content["model"].get("byte_fallback"):
        return f"the model is {kind}{' with byte fallback' if kind == 'BPE' else ''}, must be "\
               "byte-level BPE"  # fmt: skip
    if content.get("normalizer") is not None:
        return "it normalises the text"
    steps = content.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    kinds = [step.get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Digits", "ByteLevel"]):
        return f"it splits with {', '.join(map(str, kinds))}, must be ByteLevel, alone or after "\
               "Digits"  # fmt: skip
    if steps[-1].get("add_prefix_space") is not False or steps[-1].get("use_regex") is False:
        return "ByteLevel must be without prefix space and with its own pattern"
    return ""


def chatml_roles(template: str) -> dict[str, Any] | None:
    """The value of `gma_chat` for a ChatML template; None for any other."""
    if _CHATML not in template:
        return None
    return {
        "default_system": next((one for one in _DEFAULT_SYSTEMS if one in template), ""),
        "roles": {
            role: {"prefix": f"{_CHATML}{role}\n", "suffix": "<|im_end|>\n"}
            for role in ("system", "user", "assistant")
        },
        "generation_prefix": f"{_CHATML}assistant\n",
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConvertError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConvertError(f"{path}: must be an object")
    return content


class SafetensorsBase:
    """A folder as Hugging Face writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._raw = _json(folder / "config.json")
        self._config = self._read_config()
        self._shapes: dict[str, list[int]] = {}
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._scan(path)
        if not self._files:
            raise MissingFileError(f"{folder}: no *.safetensors in it")
        self._check_shapes()

    def _scan(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    if part.get_dtype() not in _DTYPES:
                        raise UnsupportedQuantizationError(
                            f"{path}: {name} is {part.get_dtype()}, must be {', '.join(_DTYPES)}"
                        )
                    if name.endswith("rotary_emb.inv_freq"):
                        continue  # old files carry it; it follows from rope_theta
                    self._shapes[name], self._files[name] = part.get_shape(), path
        except (OSError, SafetensorError) as error:
            raise ConvertError(f"{path}: not a readable safetensors file: {error}") from None

    def _read_config(self) -> LlamaConfig:
        raw, where = self._raw, self._folder / "config.json"
        family = raw.get("model_type")
        if family not in FAMILIES:
            raise WrongArchitectureError(
                f"{where}: model_type is {family!r}, must be one of {', '.join(FAMILIES)}"
            )
        if raw.get("quantization_config") is not None:
            raise UnsupportedQuantizationError(f"{where}: has a quantization_config, must be plain")
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or raw.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedRopeError(
                f"{where}: rope scaling {kind!r} is not supported, only none"
            )
        if raw.get("hidden_act", "silu") != "silu":
            raise WrongArchitectureError(f"{where}: hidden_act is {raw['hidden_act']!r}, not silu")
        window = raw.get("sliding_window") if family == "mistral" else None
        if family == "qwen2" and raw.get("use_sliding_window"):
            raise WrongArchitectureError(f"{where}: use_sliding_window is set for some layers")
        try:
            heads, width = raw["num_attention_heads"], raw["hidden_size"]
            return LlamaConfig(
                vocab_size=raw["vocab_size"],
                hidden_size=width,
                num_layers=raw["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=raw.get("num_key_value_heads") or heads,
                head_dim=raw.get("head_dim") or width // heads,
                intermediate_size=raw["intermediate_size"],
                rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
                rope_theta=rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
                tied=raw.get("tie_word_embeddings", False),
                sliding_window=window,
                positions=raw.get("max_position_embeddings"),
            )
        except KeyError as error:
            raise ConvertError(f"{where}: has no {error.args[0]}") from None

    def _expected(self) -> dict[str, list[int]]:
        c = self._config
        d, queries, keys = c.hidden_size, c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        out = {"model.embed_tokens.weight": [c.vocab_size, d], "model.norm.weight": [d]}
        if not c.tied:
            out["lm_head.weight"] = [c.vocab_size, d]
        layer = {
            "input_layernorm": [d], "post_attention_layernorm": [d],
            "self_attn.q_proj": [queries, d], "self_attn.k_proj": [keys, d],
            "self_attn.v_proj": [keys, d], "self_attn.o_proj": [d, queries],
            "mlp.gate_proj": [c.intermediate_size, d], "mlp.up_proj": [c.intermediate_size, d],
            "mlp.down_proj": [d, c.intermediate_size],
        }  # fmt: skip
        for n in range(c.num_layers):
            out |= {f"model.layers.{n}.{name}.weight": shape for name, shape in layer.items()}
        return out

    def _check_shapes(self) -> None:
        expected = self._expected()
        if self._config.tied:  # some files keep the embedding under both names
            self._shapes.pop("lm_head.weight", None)
        for name, shape in expected.items():
            found = self._shapes.get(name)
            if found != shape:
                raise WrongArchitectureError(
                    f"{self._folder}: {name} is {found or 'missing'}, must be {shape}"
                )
        biases = {name.removesuffix("weight") + "bias" for name in expected}
        if unknown := sorted(self._shapes.keys() - expected.keys() - biases):
            raise WrongArchitectureError(f"{self._folder}: has an unknown tensor {unknown[0]}")

    def config(self) -> LlamaConfig:
        """Sizes of the model."""
        return self._config

    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(torch.Size(shape).numel() for shape in self._shapes.values())

    def biased(self) -> bool:
        """Whether projections have biases."""
        return any(name.endswith(".bias") for name in self._shapes)

    def weights(self) -> dict[str, Tensor]:
        """All tensors in float32 under Hugging Face names, [out, in]."""
        out: dict[str, Tensor] = {}
        for path in sorted(set(self._files.values())):
            with safe_open(path, framework="pt") as file:
                for name in self._shapes:
                    if self._files[name] == path:
                        out[name] = file.get_tensor(name).float()
        return out

    def tokenizer_json(self) -> str:
        """`tokenizer.json` as it is."""
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file")
        return path.read_text(encoding="utf-8")

    def special_ids(self) -> dict[str, int]:
        """bos, eos and pad token ids; the first eos if there are several."""
        path = self._folder / "generation_config.json"
        found = self._raw | (_json(path) if path.exists() else {})
        ids: dict[str, int] = {}
        for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
            value = found.get(name)
            value = value[0] if isinstance(value, list) else value
            if value is None and not ids:
                raise ConvertError(f"{self._folder}: config.json has no eos_token_id")
            ids[name] = ids["eos_token_id"] if value is None else value
        return ids

    def write_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
        (folder / "tokenizer.json").write_text(self.tokenizer_json(), encoding="utf-8")
        path = self._folder / "tokenizer_config.json"
        config = _json(path) if path.exists() else {}
        roles = chatml_roles(str(config.get("chat_template") or ""))
        if roles is not None:
            config["gma_chat"] = roles
        for name, content in (
            ("tokenizer_config.json", config),
            ("generation_config.json", self.special_ids()),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")

    def fingerprint(self) -> str:
        """SHA-256 over config.json and the tensors' files."""
        whole = hashlib.sha256()
        for path in [self._folder / "config.json", *sorted(set(self._files.values()))]:
            whole.update(f"{path.name} {sha256(path)}\n".encode())
        return whole.hexdigest()
