"""Model directories: `config.json` and `model.safetensors`, or shards with an index.

Reading refuses, by name and before a tensor is built, what is missing, unknown or of the wrong
shape or type; safetensors alone, never pickle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gma_torch.config import GmaConfig
from gma_torch.decoder import GmaDecoder

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CheckpointError(ValueError):
    """A weight file that cannot be used; the message names file and tensor."""


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> GmaDecoder:
    """Reads a model directory into a decoder whose weights have type `dtype`."""
    config = GmaConfig.from_directory(path)
    with torch.device("meta"):
        model = GmaDecoder(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tensors = read_tensors(path, expected)
    model = model.to_empty(device=device).to(dtype)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(tensors[name])
    return model.eval()


def read_tensors(path: str | Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Reads exactly the tensors `expected` (name: shape) from a model directory."""
    found: dict[str, Tensor] = {}
    where: dict[str, Path] = {}
    for file in _weight_files(Path(path)):
        try:
            with safe_open(file, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118 (not a mapping)
                    _check_tensor(file, name, reader.get_slice(name), expected)
                    if name in where:
                        raise CheckpointError(f"{file}: {name} is also in {where[name]}")
                    where[name] = file
                for name in (n for n, f in where.items() if f == file):
                    found[name] = reader.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: {error}") from None
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise CheckpointError(f"{path}: {missing[0]} is missing ({len(missing)} missing in all)")
    for name, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{where[name]}: {name} holds a value that is not finite")
    return found


def save_model(model: GmaDecoder, path: str | Path) -> None:
    """Writes `config.json` and `model.safetensors`, weights in the config's torch_dtype."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    model.config.save(path)
    kind = _DTYPES[model.config.torch_dtype]
    tensors = {
        name: value.detach().to("cpu", kind).contiguous()
        for name, value in model.state_dict().items()
    }
    replace_file(path / WEIGHTS, save(tensors, metadata={"format": "pt"}))


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _weight_files(path: Path) -> list[Path]:
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    if not (path / INDEX).exists():
        raise CheckpointError(f"{path}: neither {WEIGHTS} nor {INDEX}")
    try:
        names = set(json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{path / INDEX}: no weight_map of names and files") from None
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{path / INDEX}: a shard stands outside the directory")
    return [path / name for name in sorted(names)]


def _check_tensor(
    file: Path, name: str, view: object, expected: dict[str, tuple[int, ...]]
) -> None:
    if name not in expected:
        raise CheckpointError(f"{file}: {name} is not a tensor of this configuration")
    shape = tuple(view.get_shape())
    if shape != expected[name]:
        raise CheckpointError(f"{file}: {name} has shape {shape}, must be {expected[name]}")
    if view.get_dtype() not in _TYPES:
        raise CheckpointError(
            f"{file}: {name} has type {view.get_dtype()}, must be one of {', '.join(_TYPES)}"
        )
