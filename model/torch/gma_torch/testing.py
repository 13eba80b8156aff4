"""Seeded random models for tests: weights large enough that every option shows in the output.

NumPy's generator draws them, because its stream does not depend on the instruction set.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gma_torch.config import GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.responsibilities import omega_of_variance


def random_model(config: GmaConfig, seed: int) -> GmaDecoder:
    """A model in float32 whose weights are exact in the config's torch_dtype."""
    rng = np.random.default_rng(seed)
    model = GmaDecoder(config)
    kind = torch.bfloat16 if config.torch_dtype == "bfloat16" else torch.float32
    with torch.no_grad():
        for name, value in sorted(model.state_dict().items()):
            layer = int(name.split(".")[2]) if ".layers." in name else 0
            drawn = _draw(name, value, rng, config, layer)
            value.copy_(drawn.to(torch.float32).to(kind))
    return model.eval()


def _draw(
    name: str, value: Tensor, rng: np.random.Generator, config: GmaConfig, layer: int
) -> Tensor:
    kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
    noise = torch.from_numpy(rng.standard_normal(tuple(value.shape)))
    if kind in ("embed_tokens", "component_mean"):
        return noise
    if kind == "lm_head":
        return noise * (2.0 / config.hidden_size**0.5)
    if kind.endswith("norm"):
        return 1.0 + 0.2 * noise
    if kind == "component_omega":
        var_param = config.layers[layer].var_param
        middle = omega_of_variance(config.routing_dim**0.5 / 2, config.routing_dim, var_param)
        return middle + 0.5 * noise
    if kind in ("prior_logits", "slot_bias"):
        return 0.5 * noise
    if kind == "slot_scale":
        return 1.0 + 0.3 * noise
    if kind == "route":
        return noise / value.shape[2] ** 0.5
    if kind == "conv_weight":
        noise = 0.3 * noise
        noise[:, -1] += 1.0
        return noise
    if kind in ("forget_bias", "forget_beta"):  # softplus of it spreads over time scales
        rates = torch.logspace(-2.3, 0.2, len(value), dtype=torch.float64)
        return torch.log(torch.expm1(rates))
    if kind == "forget_a_log":
        return 0.3 * noise
    return noise / value.shape[1] ** 0.5  # projections
