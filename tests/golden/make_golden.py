"""Writes the golden files beside it; they have no other source.

For each case a tiny random model directory and `expected.safetensors`, computed in float64 by the
recurrent form of gma_torch over TOKENS tokens of one sequence:

    tokens     I64 [512]         positions  I64 [P]        logits  F64 [P, vocab]
    and after all tokens, for each layer N:
    state.N.mass F64 [G, K]      state.N.memory F64 [G, K, M], M = v or 2v (values, then keys)
    with slot_horizon state.N.slot_position F64 [G, K]
    state.N.conv F64 [w - 1, C]  raw projections, oldest first
    state.N.window_key, state.N.window_value F64 [w, G, v], state.N.window_route F64 [w, G, r],
    state.N.window_log_decay F64 [w, G]                        oldest first

Usage: python tests/golden/make_golden.py [--out DIR]
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gma_torch.checkpoint import save_model
from gma_torch.config import PRESETS, GmaConfig
from gma_torch.testing import random_model
from safetensors.torch import save

TOKENS = 512
POSITIONS = [0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 300, 511]
VOCABULARY = 128

_CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window_static": {"window": 16},
    "window_adapted": {"window": 16, "read": "adapted"},
    "adapted": {"read": "adapted"},
    "short_conv": {"short_conv": 4},
    "forget_head": {"forget": "head"},
    "forget_write": {"forget": "write"},
    "route_norm": {"route_norm": True},
    "out_norm": {"out_norm": True},
    "out_gate": {"out_gate": True},
    "var_softplus": {"var_param": "softplus"},
    "grouped": {"size": {"num_memory_heads": 2}},
    "untied": {"size": {"tie_word_embeddings": False}},
    "bfloat16": {"size": {"torch_dtype": "bfloat16"}},
    "window_forget_head": {
        "window": 16,
        "forget": "head",
        "size": {"num_memory_heads": 2},
    },
    "window_forget_write": {"window": 16, "forget": "write"},
    "adapted_forget_head": {
        "read": "adapted",
        "forget": "head",
        "size": {"num_memory_heads": 1},
    },
    "per_layer": {
        "window": [0, 16],
        "read": ["static", "adapted"],
        "short_conv": [3, 0],
        "forget": ["head", "write"],
        "route_norm": [True, False],
        "out_norm": [False, True],
        "out_gate": [False, True],
        "var_param": ["softplus", "bounded"],
    },
    "everything": {
        "window": 16,
        "read": "adapted",
        "short_conv": 4,
        "forget": "head",
        "route_norm": True,
        "out_norm": True,
        "out_gate": True,
        "var_param": "softplus",
        "size": {"num_memory_heads": 2, "tie_word_embeddings": False},
    },
    "from_scratch": PRESETS["from_scratch"],
    "converted": {**PRESETS["converted"], "size": {"num_memory_heads": 2}},
    "slot_horizon": {
        "window": [0, 16],
        "read": "adapted",
        "forget": "write",
        "size": {"num_memory_heads": 2, "slot_horizon": 64},
    },
    "key_route": {
        "window": [0, 16],
        "read": "adapted",
        "route": "key",
        "forget": "write",
        "size": {"num_memory_heads": 2},
    },
}


def case_names() -> list[str]:
    """All cases, in the order in which they are written."""
    return list(_CASES)


def _config(options: dict[str, Any]) -> GmaConfig:
    size = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "num_components": 8,
        "routing_dim": 6,
        "intermediate_size": 48,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **options.get("size", {}),
    }
    return GmaConfig(**size).with_options(**{k: v for k, v in options.items() if k != "size"})


@torch.no_grad()
def make_case(name: str, directory: Path) -> None:
    """Writes the model directory and the expected values of one case."""
    seed = case_names().index(name)
    model = random_model(_config(_CASES[name]), seed)
    save_model(model, directory)
    model = model.double()
    tokens = torch.from_numpy(np.random.default_rng(1000 + seed).integers(0, VOCABULARY, TOKENS))
    state = model.initial_state(1)
    logits = []
    for position in range(TOKENS):
        row, state = model.step(tokens[position : position + 1], state)
        if position in POSITIONS:
            logits.append(row[0])
    expected = {
        "tokens": tokens,
        "positions": torch.tensor(POSITIONS),
        "logits": torch.stack(logits),
    }
    for index, layer in enumerate(state.layers):
        for item in fields(layer):
            value = getattr(layer, item.name)
            if value is not None:
                expected[f"state.{index}.{item.name}"] = value[0].contiguous()
    (directory / "expected.safetensors").write_bytes(save(expected))


def main() -> None:
    """Writes every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    for name in case_names():
        make_case(name, out / name)
        print(name)


if __name__ == "__main__":
    main()
