"""Initial weights of a model that is trained from scratch (docs/MATH.md 3, 11.2)."""

from __future__ import annotations

import math

import torch
from torch import nn

from gma_torch.config import GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.mixer import GmaMixer
from gma_torch.responsibilities import omega_of_variance

_STD = 0.02
# Time scales are spread over the memory heads, never one value: it matters more than the kind of
# gate (docs/MATH.md 11.2). Log gate per token, or beta per unit of responsibility.
_SLOWEST, _FASTEST = 0.02, 1.5


def new_model(config: GmaConfig, seed: int) -> GmaDecoder:
    """A freshly initialised model; the same seed gives the same weights."""
    return init_weights(GmaDecoder(config), seed)


def init_weights(model: GmaDecoder, seed: int) -> GmaDecoder:
    """Initialises a decoder in place, whatever its mixers are, and returns it.

    A mixer that is not GMA has its special parameters set by its own `init_special`, if any.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = _STD / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                out = name.endswith(("o_proj", "down_proj"))
                module.weight.normal_(0.0, residual_std if out else _STD, generator=generator)
        for layer in model.model.layers:
            if isinstance(layer.mixer, GmaMixer):
                _init_mixer(layer.mixer, model.config.hidden_size, generator)
            elif hasattr(layer.mixer, "init_special"):
                layer.mixer.init_special(generator)
    return model


def _init_mixer(mixer: GmaMixer, width: int, generator: torch.Generator) -> None:
    """Routing of unit variance, queries and keys routed alike, means N(0, I), var sqrt(r)/2."""
    r, groups = mixer.routing_dim, mixer.groups
    mixer.component_mean.normal_(generator=generator)
    mixer.component_omega.fill_(omega_of_variance(math.sqrt(r) / 2, r, mixer.options.var_param))
    if not mixer.has_route_k:  # keys have the variance of _STD^2 * width numbers
        scale = 1 / (_STD * math.sqrt(width * mixer.head_dim))
        mixer.route.normal_(0.0, scale, generator=generator)
    rows = torch.randn(groups, 1, r, width, generator=generator) / math.sqrt(width)
    if mixer.has_route_k:
        mixer.route_k_proj.weight.copy_(rows.reshape(groups * r, width))
    if mixer.has_route_q:
        shared = rows.expand(groups, mixer.heads // groups, r, width)
        mixer.route_q_proj.weight.copy_(shared.reshape(mixer.heads * r, width))
    if mixer.options.short_conv:
        mixer.conv_weight[:, -1] = 1.0
    rates = torch.logspace(math.log10(_SLOWEST), math.log10(_FASTEST), groups)
    if groups == 1:
        rates = torch.tensor([math.sqrt(_SLOWEST * _FASTEST)])
    free = torch.log(torch.expm1(rates))  # softplus(free) = rates
    if mixer.options.forget == "head":
        mixer.forget_bias.copy_(free)
    if mixer.options.forget == "write":
        mixer.forget_beta.copy_(free)
