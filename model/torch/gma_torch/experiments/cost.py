"""Experiment (d): activation memory and time of one mixer by length, forward and backward.

Activation memory: on the CPU the bytes of all tensors that the backward pass keeps (each storage
once, parameters left out); on a GPU the peak of allocated memory above what stood before.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gma_torch.baselines.build import new_decoder
from gma_torch.config import PRESETS, GmaConfig
from gma_torch.experiments.harness import Cell, Experiment, Result, by_variant, lines_figure
from gma_torch.experiments.training import default_device

_VARIANTS: dict[str, dict[str, Any]] = {
    "GMA plain": {"mixer": "gma"},
    "GMA from_scratch": {"mixer": "gma", "options": PRESETS["from_scratch"]},
    "SDPA, fused kernel": {"mixer": "softmax"},
    "SDPA, no fused kernel": {"mixer": "softmax", "math": True},
}


@dataclass
class CostConfig:
    """One sequence of each length; `memory_gb` is what a cell may use at most."""

    lengths: list[int] = field(
        default_factory=lambda: [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
    )
    hidden_size: int = 256
    heads: int = 4
    components: int = 64
    routing_dim: int = 16
    repeats: int = 3
    memory_gb: float = 8.0


def _cells(config: CostConfig) -> list[Cell]:
    return [
        {"name": f"{name.replace(' ', '_')}-{length}", "variant": name, "length": length, **variant}
        for length in config.lengths
        for name, variant in _VARIANTS.items()
    ]


@contextlib.contextmanager
def _kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Counts what autograd saves inside: one number, complete at the end."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # a storage that is freed could give its address to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    total: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(kept.values()))


def _pass(mixer: nn.Module, x: Tensor, device: torch.device) -> tuple[float, float, int]:
    """Seconds of a forward and a backward pass, and bytes of activations."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    with _kept_bytes(mixer) as kept:
        out, _ = mixer(x)
    if device.type == "cuda":
        torch.cuda.synchronize()
    middle = time.perf_counter()
    out.sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
        kept = [torch.cuda.max_memory_allocated() - before]
    end = time.perf_counter()
    mixer.zero_grad(set_to_none=True)
    return middle - begin, end - middle, kept[0]


def _run(config: CostConfig, cell: Cell, folder: Path) -> Result:
    del folder
    need = 4 * 4 * config.heads * cell["length"] ** 2 if cell.get("math") else 0
    if need > config.memory_gb * 1e9:
        return {"skipped": f"needs about {need / 1e9:.2g} GB"}
    shape = GmaConfig(
        vocab_size=1, hidden_size=config.hidden_size, num_hidden_layers=1,
        num_attention_heads=config.heads, head_dim=config.hidden_size // config.heads,
        num_components=config.components, routing_dim=config.routing_dim, intermediate_size=1,
    ).with_options(**cell.get("options", {}))  # fmt: skip
    device = default_device()
    mixer = new_decoder(shape, cell["mixer"], 0).model.layers[0].mixer.to(device)
    x = torch.randn(1, cell["length"], config.hidden_size, device=device, requires_grad=True)
    backends = [SDPBackend.MATH] if cell.get("math") else [
        SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
    ]  # fmt: skip
    with sdpa_kernel(backends):
        _pass(mixer, x, device)  # warms up
        passes = [_pass(mixer, x, device) for _ in range(config.repeats)]
    return {
        "forward_seconds": statistics.median(p[0] for p in passes),
        "backward_seconds": statistics.median(p[1] for p in passes),
        "activation_bytes": passes[0][2],
        "device": str(device),
    }


def _rows(results: list[Result]) -> list[dict[str, Any]]:
    return [
        {
            "variant": r["variant"], "length": r["length"], "device": r.get("device"),
            "activation MB": r["activation_bytes"] / 1e6 if "activation_bytes" in r else None,
            "bytes a token": r["activation_bytes"] // r["length"] if "device" in r else None,
            "forward ms": 1e3 * r["forward_seconds"] if "device" in r else None,
            "backward ms": 1e3 * r["backward_seconds"] if "device" in r else None,
            "note": r.get("skipped"),
        }
        for r in sorted(results, key=lambda r: (list(_VARIANTS).index(r["variant"]), r["length"]))
    ]  # fmt: skip


def _figure(results: list[Result], path: Path) -> None:
    curves = {
        name: {str(r["length"]): r["activation_bytes"] / 1e6 for r in group if "device" in r}
        for (name,), group in by_variant(results, "variant").items()
    }
    lines_figure(curves, path, x="tokens", y="activations of one layer (MB)", log=True)


EXPERIMENT = Experiment(
    name="cost",
    about="Activation memory and time of one layer's mixer by length; one sequence, float32.",
    config=CostConfig,
    cells=_cells,
    run=_run,
    rows=_rows,
    figure=_figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
