"""A start from an earlier delta instead of from k-means, with fewer components if so wished.

Components that are hardly written cost state and give nothing: with a smaller K the most used ones
stay, and the one that takes the first token of a text (the attention sink) counts as well used.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gma_torch.convert.apply import load_delta
from gma_torch.convert.base import ConvertError
from gma_torch.convert.mixer import TransferMixer
from gma_torch.llama import Heads, Llama

_PER_COMPONENT = ("component_mean", "component_omega", "prior_logits")


@torch.no_grad()
def mixers_of_delta(path: Path, layers: int) -> list[TransferMixer]:
    """The mixers that a delta holds, without its low-rank updates (`updates_of_delta`).

    ConvertError if it has other layers.
    """
    tensors, _ = load_delta(path)
    found = {int(name.split(".")[2]) for name in tensors}
    if found != set(range(layers)):
        raise ConvertError(f"{path}: has {len(found)} layers, the base has {layers}")
    out = []
    for layer in range(layers):
        own = {
            name.removeprefix(f"model.layers.{layer}.mixer."): value
            for name, value in tensors.items()
            if name.startswith(f"model.layers.{layer}.mixer.") and ".adapter_" not in name
        }
        groups, components, routing = own["component_mean"].shape
        heads, width = own["slot_bias"].shape[0], own["route"].shape[-1]
        for name in ("slot_bias", "slot_scale"):  # [H, ...] -> [G, J, ...]
            own[name] = own[name].unflatten(0, (groups, heads // groups))
        mixer = TransferMixer(groups, heads // groups, components, routing, width)
        mixer.load_state_dict(own)
        out.append(mixer)
    return out


def updates_of_delta(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The low-rank updates (A, B) that a delta holds, by the name of the base's matrix."""
    tensors, _ = load_delta(path)
    stems = [name.removesuffix(".adapter_a") for name in tensors if name.endswith(".adapter_a")]
    return {
        stem.replace(".mixer.", ".self_attn.") + ".weight": (
            tensors[f"{stem}.adapter_a"],
            tensors[f"{stem}.adapter_b"],
        )
        for stem in stems
    }


@torch.no_grad()
def component_use(teacher: Llama, mixers: list[TransferMixer], tokens: Tensor) -> list[Tensor]:
    """How much of the tokens [B, T], and of their first tokens, each component takes: [G, K]s."""
    use: list[Tensor] = []

    def attend(layer: int, heads: Heads) -> Tensor:
        resp = mixers[layer].responsibilities(heads.k.transpose(1, 2))  # [B, G, T, K]
        use.append(resp.mean((0, 2)) + resp[:, :, 0].mean(0))
        return teacher.attention(layer, heads)

    teacher.hidden(tokens, attend)
    return use


@torch.no_grad()
def thinned(mixer: TransferMixer, use: Tensor, components: int) -> TransferMixer:
    """The same mixer with its `components` most used ones; use [G, K] as `component_use` gives."""
    groups, share, before = mixer.slot_bias.shape
    if components > before:
        raise ConvertError(f"cannot go from {before} components to {components}")
    if components == before:
        return mixer
    kept = use.topk(components, dim=1).indices.sort(1).values  # [G, components]
    out = TransferMixer(groups, share, components, mixer.route.shape[1], mixer.width)
    state = mixer.state_dict()
    for g in range(groups):
        for name in _PER_COMPONENT:
            getattr(out, name)[g] = state[name][g, kept[g]]
        out.slot_bias[g] = state["slot_bias"][g, :, kept[g]]
    for name in ("route", "slot_scale", "forget_beta"):
        getattr(out, name).copy_(state[name])
    return out
