"""The GMA language model: a pre-norm decoder with RMSNorm and SwiGLU.

    x = embed(tokens);  per layer  x += mixer(norm(x)),  x += mlp(norm(x));  logits = head(norm(x))

`forward` works on whole sequences by chunks and is differentiable; `prefill` does the same from
and to an explicit state; `step` feeds one token by the recurrence. States are values: no call
changes the one it is given, so keeping it is a fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gma_torch.config import GmaConfig
from gma_torch.layers import RmsNorm, SwiGlu
from gma_torch.mixer import GmaMixer, MixerState


@dataclass
class DecoderState:
    """Everything a session's past is: the layers' states and the number of tokens fed."""

    layers: list[MixerState]
    position: int


class DecoderLayer(nn.Module):
    """One block: mixer and MLP, each behind its norm."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mixer = GmaMixer(config, layer)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGlu(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, state: MixerState | None, position: int
    ) -> tuple[Tensor, MixerState]:
        """x [B, T, d] -> [B, T, d] and the state after the last token."""
        mixed, state = self.mixer(self.input_layernorm(x), state, position)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), state

    def step(self, x: Tensor, state: MixerState, position: int) -> tuple[Tensor, MixerState]:
        """One token: x [B, d] -> [B, d] and the next state."""
        mixed, state = self.mixer.step(self.input_layernorm(x), state, position)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), state


class _Trunk(nn.Module):
    """Embedding, blocks and final norm; exists for the `model.` prefix of the names."""

    def __init__(self, config: GmaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class GmaDecoder(nn.Module):
    """A GMA language model; parameter names are those of `model.safetensors`."""

    def __init__(self, config: GmaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Trunk(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_directory(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> GmaDecoder:
        """Loads a model directory; CheckpointError or ConfigError says what is wrong with it."""
        from gma_torch.checkpoint import load_model

        return load_model(path, dtype, device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed_tokens.weight.device

    def initial_state(self, batch: int) -> DecoderState:
        """The state before the first token, for `batch` sequences."""
        core = torch.float64 if self.dtype == torch.float64 else torch.float32
        layers = [
            layer.mixer.initial_state(batch, core, self.device) for layer in self.model.layers
        ]
        return DecoderState(layers, 0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T] -> logits [B, T, vocab]."""
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x, _ = layer(x, None, 0)
        return self._logits(x)

    def prefill(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Feeds tokens [B, T] to a state by chunks; returns logits [B, T, vocab], next state."""
        x = self.model.embed_tokens(tokens)
        states = []
        for layer, old in zip(self.model.layers, state.layers, strict=True):
            x, new = layer(x, old, state.position)
            states.append(new)
        return self._logits(x), DecoderState(states, state.position + tokens.shape[1])

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Feeds one token a sequence [B] by the recurrence; logits [B, vocab] and next state."""
        x = self.model.embed_tokens(tokens)
        states = []
        for layer, old in zip(self.model.layers, state.layers, strict=True):
            x, new = layer.step(x, old, state.position)
            states.append(new)
        return self._logits(x), DecoderState(states, state.position + 1)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.model.norm(x)
        if self.config.tie_word_embeddings:
            return nn.functional.linear(x, self.model.embed_tokens.weight)
        return self.lm_head(x)
