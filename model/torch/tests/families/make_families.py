"""Writes tiny seeded models of each family beside this file, as Hugging Face's transformers does.

Each folder holds config.json and model.safetensors; NAME.safetensors beside it holds tokens and the
logits that transformers computes (eager attention, float32). `transformers` 5.23.0 made the files
here; it is needed for nothing else.

Usage: python model/torch/tests/families/make_families.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
}  # fmt: skip
FAMILIES = {
    "smollm2": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 100000.0})),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, head_dim=12, tie_word_embeddings=False)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=8)),
}  # fmt: skip


def main() -> None:
    """Writes all folders."""
    for name, (kind, config) in FAMILIES.items():
        torch.manual_seed(0)
        model = kind(config).eval()
        with torch.no_grad():
            for key, value in model.named_parameters():
                scale = 0.3 if value.dim() == 2 else 0.5
                value.copy_(scale * torch.randn_like(value) + ("norm" in key))
            tokens = torch.randint(0, 64, (2, 24))
            logits = model(tokens).logits
        folder = Path(__file__).resolve().parent / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file({"tokens": tokens, "logits": logits.float()}, folder.with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
