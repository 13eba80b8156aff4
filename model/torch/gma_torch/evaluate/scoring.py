"""Held-out loss of a model on token windows, token by token.

A scorer maps one window of tokens [T] to the losses [T - 1] of tokens 1..T-1, in nats. Three kinds:
a GMA model (fed in pieces through its state, so a window may have any length), and, for models
converted from a softmax transformer, that transformer itself and a sliding window of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gma_torch.checkpoint import read_tensors
from gma_torch.config import GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.llama import Attend, Llama, LlamaConfig

Scorer = Callable[[Tensor], Tensor]

_PIECE = 512
SINKS = 4


def gma_scorer(model: GmaDecoder) -> Scorer:
    """Losses of a GMA model, through its state."""

    @torch.no_grad()
    def score(tokens: Tensor) -> Tensor:
        state, losses = model.initial_state(1), []
        for begin in range(0, len(tokens) - 1, _PIECE):
            piece = tokens[begin : min(begin + _PIECE, len(tokens) - 1)]
            logits, state = model.prefill(piece.unsqueeze(0), state)
            target = tokens[begin + 1 : begin + 1 + len(piece)]
            losses.append(F.cross_entropy(logits[0].float(), target, reduction="none"))
        return torch.cat(losses)

    return score


def softmax_scorer(model: Llama, attend: Attend) -> Scorer:
    """Losses of the softmax transformer with the given attention."""

    @torch.no_grad()
    def score(tokens: Tensor) -> Tensor:
        hidden = model.hidden(tokens[:-1].unsqueeze(0), attend)[0]
        losses = []
        for begin in range(0, len(hidden), _PIECE):
            logits = model.logits(hidden[begin : begin + _PIECE])
            target = tokens[begin + 1 : begin + 1 + len(logits)]
            losses.append(F.cross_entropy(logits, target, reduction="none"))
        return torch.cat(losses)

    return score


def teacher_of(folder: Path) -> Llama:
    """The softmax transformer inside a converted model directory: same trunk, full attention.

    ValueError if it is not one, or if the conversion changed the base's matrices.
    """
    config = GmaConfig.from_directory(folder)
    stamp = folder / "conversion.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")).get("base_changed"):
        raise ValueError(f"{folder}: its conversion changed the base's matrices: give --base")
    if not all(layer.joint for layer in config.layers) or not config.tie_word_embeddings:
        raise ValueError(f"{folder}: not converted from a softmax model: it has no teacher inside")
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in GmaDecoder(config).state_dict().items()}
    kept = ("q_proj.", "k_proj.", "v_proj.", "o_proj.")
    weights = {
        name.replace(".mixer.", ".self_attn."): value
        for name, value in read_tensors(folder, shapes).items()
        if ".mixer." not in name or name.split(".mixer.")[1].startswith(kept)
    }
    sizes = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_memory_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
    )
    return Llama(sizes, weights)


def state_bytes(config: GmaConfig) -> int:
    """Bytes of a state row without the position: memory, masses and rings."""
    groups, components = config.num_memory_heads, config.num_components
    total = 0
    for layer in config.layers:
        width = config.head_dim * (2 if layer.read == "adapted" else 1)
        total += groups * components * (4 * width + 8)
        if config.slot_horizon is not None and layer.read == "adapted":
            total += groups * components * 8
        ring = 2 * config.head_dim + (layer.forget == "head")
        ring += config.routing_dim if layer.route == "projected" else 0
        total += 4 * groups * layer.window * ring
        if layer.short_conv:
            queries = 0 if layer.read == "adapted" else config.num_attention_heads
            channels = queries * config.routing_dim
            channels += groups * (config.routing_dim + config.head_dim)
            total += 4 * channels * (layer.short_conv - 1)
    return total


def cache_bytes_per_token(config: GmaConfig) -> int:
    """Bytes one token takes in a float32 key-value cache of the teacher."""
    return 2 * 4 * config.num_memory_heads * config.head_dim * config.num_hidden_layers


def equal_bytes_window(config: GmaConfig) -> int:
    """The sliding window that, with its sinks, takes as many bytes as the GMA state."""
    return state_bytes(config) // cache_bytes_per_token(config) - SINKS
