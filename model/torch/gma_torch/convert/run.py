"""What `gma-convert train`, `windows` and `balance` do, from the base to their files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from gma_torch.checkpoint import replace_file
from gma_torch.convert.apply import balance_delta, save_delta
from gma_torch.convert.base import ConvertError, require_memory
from gma_torch.convert.data import ChatEncoder, Mixture
from gma_torch.convert.distill import Distill
from gma_torch.convert.facts import FactChats
from gma_torch.convert.recipe import Recipe
from gma_torch.convert.source import BaseModel, open_base, require_servable
from gma_torch.convert.transfer import Transfer
from gma_torch.convert.warm import component_use, mixers_of_delta, thinned, updates_of_delta
from gma_torch.convert.windows import damages, divide
from gma_torch.gguf_base import DEFAULT_SYSTEM
from gma_torch.llama import Llama, LlamaConfig

CHOICES = (16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768)
_LENGTH = 1024
_FIRST = 1_000_000  # number of the first sequence that `windows` measures on: not trained on yet


def _opened(base: Path, recipe: Path, data: Path) -> tuple[BaseModel, Recipe, Mixture, Llama]:
    """Everything that can be wrong is looked at before the weights are read."""
    source = open_base(base)
    require_servable(source, str(base))
    try:
        settings = Recipe.load(recipe)
        tokenizer = Tokenizer.from_str(source.tokenizer_json())
        text = Mixture(data, tokenizer, DEFAULT_SYSTEM, settings.seed)
    except (OSError, ValueError) as error:
        raise ConvertError(str(error)) from None
    require_memory(3 * 4 * source.parameters(), "the base and its copies")
    torch.set_num_threads(settings.threads)
    teacher = Llama(source.config(), source.weights(), getattr(torch, settings.teacher_dtype))
    return source, settings, text, teacher


def train(
    base: Path, recipe_path: Path, data_path: Path, work: Path, out: Path, *,
    start: Path | None, minutes: float | None, end_to_end_minutes: float | None,
) -> None:  # fmt: skip
    """Makes the delta `out`; goes on from the checkpoints in `work`."""
    source, recipe, data, teacher = _opened(base, recipe_path, data_path)
    updates = {} if start is None else updates_of_delta(start)
    if updates and recipe.end_to_end is None:
        raise ConvertError(f"{start}: has low-rank updates, and {recipe_path} no end_to_end")
    try:
        transfer = Transfer(recipe, teacher, data)
    except ValueError as error:
        raise ConvertError(f"{recipe_path}: {error}") from None
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.safetensors"
    if checkpoint.exists():
        transfer.load(checkpoint)
    else:
        if start is None:
            transfer.start()
        else:
            transfer.start_from(start)
        transfer.save(checkpoint)
    transfer.run(work, None if minutes is None else time.time() + 60 * minutes)
    note = {"tokens": str(transfer.tokens), "steps": str(transfer.step),
            "slot_horizon": str(recipe.horizon(source.config().positions)),
            "base_sha256": source.fingerprint()}  # fmt: skip
    save_delta(out, transfer.mixers, recipe.final_windows(), note)
    print(f"{out}: {transfer.tokens} tokens layer by layer, {transfer.seconds:.0f} s")
    if recipe.end_to_end is None:
        return
    student = teacher
    if recipe.end_to_end.student_dtype != recipe.teacher_dtype:
        student = Llama(
            source.config(), source.weights(), getattr(torch, recipe.end_to_end.student_dtype)
        )
    facts = None
    if recipe.end_to_end.answers > 0:
        encoder = ChatEncoder(Tokenizer.from_str(source.tokenizer_json()))
        facts = FactChats(data_path, encoder, DEFAULT_SYSTEM, recipe.seed)
    distill = Distill(recipe, teacher, student, data, transfer.mixers, transfer.sequences, facts)
    distill.start_from(updates)
    require_memory(distill.memory_bytes(), "end_to_end", "; lower sequences or length")
    torch.set_num_threads(recipe.threads)
    distill.run(work / "end_to_end.safetensors", end_to_end_minutes)
    note |= {"end_to_end_tokens": str(distill.tokens), "end_to_end_steps": str(distill.step)}
    save_delta(out, distill.mixers, recipe.final_windows(), note, distill.adapters)
    (work / "report.json").write_text(json.dumps(distill.history), encoding="utf-8")
    print(f"{out}: {distill.tokens} tokens end to end, {distill.seconds:.0f} s")


def window_rows(config: LlamaConfig, recipe: Recipe, megabytes: float) -> int:
    """Tokens that the windows of all layers may hold together in a state of `megabytes`."""
    slots = recipe.components * (4 * 2 * config.head_dim + 8)
    row = 4 * 2 * config.head_dim
    return int((1e6 * megabytes / config.num_kv_heads - config.num_layers * slots) // row)


def share_out(
    base: Path, delta: Path, recipe_path: Path, data_path: Path, megabytes: float, sequences: int,
    out: Path,
) -> None:  # fmt: skip
    """Measures the damage of every layer's window on training text and prints the best division.

    Low-rank updates of the delta are left out: the mixers are asked about the base's own heads.
    """
    source, recipe, data, teacher = _opened(base, recipe_path, data_path)
    mixers = mixers_of_delta(delta, source.config().num_layers)
    first = [data.sequence(_FIRST + n, _LENGTH) for n in range(recipe.start_sequences)]
    use = component_use(teacher, mixers, torch.tensor(first))
    mixers = [thinned(m, u, recipe.components) for m, u in zip(mixers, use, strict=True)]
    settings = {"base": source.fingerprint(), "components": recipe.components, "length": _LENGTH,
                "choices": list(CHOICES)}  # fmt: skip
    tables: list[list[list[float]]] = []
    if out.exists():
        found = json.loads(out.read_text(encoding="utf-8"))
        if {key: found.get(key) for key in settings} != settings:
            raise ConvertError(f"{out}: measured with other settings: name another --out")
        tables = found["tables"]
    out.parent.mkdir(parents=True, exist_ok=True)
    while len(tables) < sequences:
        number = _FIRST + recipe.start_sequences + len(tables)
        row = torch.tensor([data.sequence(number, _LENGTH)])
        tables.append(damages(teacher, mixers, row, list(CHOICES), number).tolist())
        replace_file(out, json.dumps({**settings, "tables": tables}).encode())
        print(f"{len(tables)} of {sequences} sequences", flush=True)
    mean = torch.tensor(tables).mean(0)
    rows = window_rows(source.config(), recipe, megabytes)
    try:
        windows = divide(mean, list(CHOICES), rows)
    except ValueError as error:
        raise ConvertError(f"{megabytes} MB: {error}") from None
    columns = [CHOICES.index(window) for window in windows]
    total = sum(float(mean[n, column]) for n, column in enumerate(columns))
    print(json.dumps({"window": windows}))
    print(f"{sum(windows)} of {rows} tokens; estimated damage {total:.4f} nats a token")


def balance(base: Path, delta: Path, data_path: Path, out: Path) -> None:
    """Writes `delta` with exponents that make int8 weights finer to `out`."""
    source = open_base(base)
    try:
        tokenizer = Tokenizer.from_str(source.tokenizer_json())
        data = Mixture(data_path, tokenizer, DEFAULT_SYSTEM, 0)
    except (OSError, ValueError) as error:
        raise ConvertError(str(error)) from None
    rows = [data.sequence(_FIRST + n, _LENGTH // 2) for n in range(3)]
    balance_delta(delta, out, base, torch.tensor(rows))
    print(f"{out}: balanced")
