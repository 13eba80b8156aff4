"""Scales that leave the model as it is, but for rounding, and make int8 weights finer.

A row of an int8 matrix has one scale, so that columns with small numbers and large inputs lose
most. Columns are multiplied by 2^e and what feeds them divided by it: e is a share of the binary
logarithm of the input's size on training text (after arXiv 2306.00978), less its mean. Columns
share e in groups of 32, the groups of the 4-bit form, which so keeps its grid; not the inputs of q,
k and v, whose sizes differ most: a smaller share there is what both forms can bear (measured on the
default model, docs/MODELS.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gma_torch.decoder import GmaDecoder

_GROUP = 32
# By what feeds the columns: the share of the logarithm, and how many columns have one exponent.
_KINDS = {
    "attention": (0.25, 1),
    "value": (0.5, _GROUP),
    "mlp": (0.5, _GROUP),
    "down": (0.5, _GROUP),
}


def _exponents(size: Tensor, share: float, group: int) -> Tensor:
    """Input sizes [n] -> exponents [n]; columns that are no whole groups stay single."""
    log = share * size.clamp_min(1e-12).log2()
    if len(log) % group == 0:
        log = log.view(-1, group).mean(1).repeat_interleave(group)
    return (log - log.mean()).clamp(-8, 8)


@torch.no_grad()
def measured(model: GmaDecoder, tokens: Tensor) -> dict[str, Tensor]:
    """The exponents of every layer from tokens [B, T], by the names they have in a delta."""
    sizes: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            sizes[name] = args[0].flatten(0, -2).square().mean(0).sqrt()

        return layer.register_forward_pre_hook(before)

    hooks = [watch(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    model(tokens)
    for hook in hooks:
        hook.remove()
    out: dict[str, Tensor] = {}
    groups, width = model.config.num_memory_heads, model.config.head_dim
    for n in range(model.config.num_hidden_layers):
        of = f"model.layers.{n}."
        heads = sizes[of + "mixer.o_proj"].view(groups, -1, width)
        found = {
            "attention": sizes[of + "mixer.q_proj"],
            "value": heads.square().mean(1).sqrt().flatten(),
            "mlp": sizes[of + "mlp.gate_proj"],
            "down": sizes[of + "mlp.down_proj"],
        }
        for kind, size in found.items():
            out[f"{of}balance.{kind}"] = _exponents(size, *_KINDS[kind])
    return out


def balanced(weights: dict[str, Tensor], exponents: dict[str, Tensor]) -> None:
    """Applies exponents to the tensors of a model directory, in place of the old ones."""
    stems = sorted({name.rsplit(".balance.", 1)[0] for name in exponents})
    for of in stems:
        scale = {k: torch.exp2(exponents[f"{of}.balance.{k}"]) for k in _KINDS}

        def multiply(name: str, factor: Tensor, of: str = of) -> None:
            weights[f"{of}.{name}.weight"] = weights[f"{of}.{name}.weight"] * factor

        multiply("input_layernorm", 1 / scale["attention"])
        for name in ("q_proj", "k_proj", "v_proj"):
            multiply(f"mixer.{name}", scale["attention"])
        multiply("mixer.v_proj", 1 / scale["value"].unsqueeze(1))
        width = _head_width(weights, of)
        share = weights[f"{of}.mixer.o_proj.weight"].shape[1] // len(scale["value"])
        columns = scale["value"].view(-1, 1, width).expand(-1, share, width)
        multiply("mixer.o_proj", columns.flatten())
        multiply("post_attention_layernorm", 1 / scale["mlp"])
        for name in ("gate_proj", "up_proj"):
            multiply(f"mlp.{name}", scale["mlp"])
        multiply("mlp.up_proj", 1 / scale["down"].unsqueeze(1))
        multiply("mlp.down_proj", scale["down"])


def _head_width(weights: dict[str, Tensor], of: str) -> int:
    groups = weights[f"{of}.mixer.component_mean"].shape[0]
    return weights[f"{of}.mixer.v_proj.weight"].shape[0] // groups
