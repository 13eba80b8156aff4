"""Decoders with any mixer, of equal parameter counts, and the bytes of their states."""

from __future__ import annotations

from dataclasses import replace

import torch

from gma_torch.baselines.favor import FavorMixer
from gma_torch.baselines.linear_elu import LinearEluMixer
from gma_torch.baselines.softmax import SoftmaxMixer
from gma_torch.baselines.ssd import SsdMixer
from gma_torch.baselines.window import WindowMixer
from gma_torch.config import ConfigError, GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.scoring import state_bytes as gma_state_bytes
from gma_torch.init import init_weights

BASELINES = {
    "softmax": SoftmaxMixer,
    "linear_elu": LinearEluMixer,
    "favor": FavorMixer,
    "ssd": SsdMixer,
    "window": WindowMixer,
}
MIXERS = ("gma", *BASELINES)


def build_decoder(config: GmaConfig, mixer: str = "gma") -> GmaDecoder:
    """The decoder of `config` with that mixer in every layer, weights not initialised."""
    if mixer not in MIXERS:
        raise ConfigError(f"mixer = {mixer!r}, must be one of {', '.join(MIXERS)}")
    model = GmaDecoder(config)
    if mixer != "gma":
        for index, layer in enumerate(model.model.layers):
            layer.mixer = BASELINES[mixer](config, index)
    return model


def new_decoder(config: GmaConfig, mixer: str, seed: int) -> GmaDecoder:
    """`build_decoder` with initial weights; the same seed gives the same weights."""
    return init_weights(build_decoder(config, mixer), seed)


def parameter_count(config: GmaConfig, mixer: str) -> int:
    """Trainable numbers of a decoder."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_decoder(config, mixer).parameters())


def match_parameters(config: GmaConfig, mixer: str, target: int) -> GmaConfig:
    """`config` with the MLP width that brings the decoder nearest to `target` parameters."""
    per_width = 3 * config.hidden_size * config.num_hidden_layers
    excess = parameter_count(config, mixer) - target
    width = config.intermediate_size - round(excess / per_width)
    if width < 1:
        raise ConfigError(
            f"{mixer} has {excess - per_width * config.intermediate_size} parameters more than "
            f"{target} without any MLP: use more parameters or fewer components"
        )
    return replace(config, intermediate_size=width)


def state_bytes(config: GmaConfig, mixer: str, tokens: int) -> int:
    """Bytes of a sequence's state after `tokens` tokens, all layers, float32 (masses float64)."""
    if mixer == "gma":
        return gma_state_bytes(config)
    with torch.device("meta"):
        model = build_decoder(config, mixer)
    return sum(layer.mixer.state_bytes(tokens) for layer in model.model.layers)
