"""Conversion end to end: distillation, windows a layer, how they are divided."""

from __future__ import annotations

import itertools
import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_base import END, GROUPS, LAYERS, RECIPE, WIDE, Text, new_transfer
from tokenizers import Tokenizer

from gma_torch.checkpoint import load_model
from gma_torch.convert import apply as apply_module
from gma_torch.convert import facts
from gma_torch.convert.apply import apply_delta, save_delta
from gma_torch.convert.base import (
    ConvertError,
    NotEnoughMemoryError,
    PinnedBase,
    require_memory,
)
from gma_torch.convert.data import ChatEncoder
from gma_torch.convert.distill import Distill, student_attention
from gma_torch.convert.facts import FactChats
from gma_torch.convert.recipe import Recipe
from gma_torch.convert.transfer import Transfer
from gma_torch.convert.warm import component_use, updates_of_delta
from gma_torch.convert.windows import damages, divide
from gma_torch.evaluate import questions
from gma_torch.evaluate.scoring import teacher_of
from gma_torch.gguf_base import GgufBase
from gma_torch.llama import full_attention


def _distill(gguf_file: Path, recipe: Recipe = END) -> Distill:
    transfer = new_transfer(gguf_file, recipe)
    transfer.start()
    teacher = transfer.teacher
    return Distill(recipe, teacher, teacher, Text(), transfer.mixers, transfer.sequences)


def test_every_layer_trains_with_its_own_window(gguf_file: Path) -> None:
    """A layer's loss is that of a run whose windows are all its own."""
    together, losses = new_transfer(gguf_file, WIDE), []
    together.start()
    losses = together.train_step(RECIPE.stages[0], 0.0)
    for layer, window in enumerate(WIDE.window):
        alone = new_transfer(gguf_file, replace(RECIPE, window=window))
        alone.start()
        assert alone.train_step(RECIPE.stages[0], 0.0)[layer] == losses[layer]
    with pytest.raises(ValueError, match="lists 3 values, must be 2"):
        new_transfer(gguf_file, replace(RECIPE, window=[8, 8, 8]))
    with pytest.raises(ValueError, match="must be below the shortest sequence, 48 tokens"):
        new_transfer(gguf_file, replace(RECIPE, window=48))


def test_distillation_has_the_gradients_of_its_loss(gguf_file: Path) -> None:
    """Pieces and recomputation give the gradients of the loss written plainly."""
    distill = _distill(gguf_file, replace(END, end_to_end=replace(END.end_to_end, answers=3.0)))
    for _, up in distill.adapters.values():
        torch.nn.init.normal_(up, std=0.05)
    tokens = torch.tensor([Text().sequence(5, 300)])
    answers = torch.zeros_like(tokens, dtype=torch.bool)
    answers[0, 120:150] = True
    got = distill.losses(tokens, backward=0.5, answers=answers)
    grads = {name: value.grad.clone() for name, value in distill.parameters().items()}
    distill.optimizer.zero_grad()
    student, teacher = distill.student, distill.teacher
    logits = student.logits(student.hidden(tokens[:, :-1], distill.attend))
    want = torch.log_softmax(teacher.logits(teacher.hidden(tokens[:, :-1], full_attention)), -1)
    have = torch.log_softmax(logits, -1)
    kl = (want.exp() * (want - have)).sum(-1)
    entropy = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:], reduction="none")[None]
    of_teacher = distill.part.kl * kl + distill.part.next_token * entropy
    (0.5 * torch.where(answers[:, 1:], 3.0 * entropy, of_teacher).mean()).backward()
    assert got == pytest.approx((kl.mean().item(), entropy.mean().item()), rel=1e-4)
    for name, value in distill.parameters().items():
        torch.testing.assert_close(grads[name], value.grad, rtol=1e-3, atol=1e-5)
    assert student.adapters and not teacher.adapters


def test_chats_ask_for_what_was_said_at_their_start(gguf_file: Path, tmp_path: Path) -> None:
    """Answers hold words of the opening, none of the probes', and are what is marked."""
    base = GgufBase(gguf_file)
    tokenizer = Tokenizer.from_str(base.tokenizer_json())
    (tmp_path / "dolly-15k").mkdir()
    record = {"instruction": "the cat", "context": "", "response": "a mat and a dog sat"}
    lines = "".join(json.dumps(record) + "\n" for _ in range(20))
    (tmp_path / "dolly-15k/dolly-15k.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    chats = FactChats(tmp_path, ChatEncoder(tokenizer), "a cat", 0)
    words = {w for _, (_, _, said) in facts._KINDS.items() for s in said for w in s.split()}
    for number in range(12):
        ids, answers = chats.sequence(number, 3000)
        assert (ids, answers) == chats.sequence(number, 3000) and len(ids) == len(answers) == 3000
        assert ids != chats.sequence(number + 1, 3000)[0] and any(answers)
        spans = [list(span) for mine, span in itertools.groupby(range(3000), answers.__getitem__)
                 if mine]  # fmt: skip
        for span in spans[:-1]:  # the last may be cut
            text = tokenizer.decode([ids[i] for i in span], skip_special_tokens=False)
            assert text.endswith("<|im_end|>")
            told = tokenizer.decode(ids[: span[0]], skip_special_tokens=False)
            new = set(text.removesuffix("<|im_end|>").rstrip(".").split()) - words
            assert new and all(word in told for word in new), text
    probes = {*questions._NAMES, *questions._CITIES, *questions._SYLLABLES}
    assert not probes & {*facts._NAMES, *facts._CITIES, *facts._PETS, *facts._SYLLABLES}


def test_every_fourth_sequence_asks_for_facts(gguf_file: Path) -> None:
    class Facts:
        def sequence(self, index: int, length: int) -> tuple[list[int], list[bool]]:
            seen.append(index)
            return [5] * length, [True] * length

    seen: list[int] = []
    part = replace(END.end_to_end, answers=1.0, accumulate=8, sequences=1)
    distill = _distill(gguf_file, replace(END, end_to_end=part))
    distill.facts = Facts()
    distill.train_step()
    first = distill.first
    assert seen == [n for n in range(first, first + 8) if n % 4 == 3]


def test_distillation_learns(gguf_file: Path) -> None:
    distill = _distill(gguf_file, replace(END, end_to_end=replace(END.end_to_end, steps=40)))
    tokens = torch.tensor([Text().sequence(77, 61), Text().sequence(78, 61)])
    before = distill.losses(tokens, backward=None)
    for _ in range(40):
        distill.train_step()
    after = distill.losses(tokens, backward=None)
    assert after[0] < 0.8 * before[0], (before, after)


def test_a_resumed_distillation_equals_an_unbroken_one(gguf_file: Path, tmp_path: Path) -> None:
    whole = _distill(gguf_file)
    whole.run(tmp_path / "whole.safetensors")
    broken = _distill(gguf_file)
    broken.train_step()
    broken.train_step()
    broken.save(tmp_path / "broken.safetensors")
    resumed = _distill(gguf_file)
    resumed.run(tmp_path / "broken.safetensors")
    assert resumed.history == whole.history
    for name, value in whole.parameters().items():
        assert torch.equal(value, resumed.parameters()[name]), name
    other = _distill(gguf_file, replace(END, end_to_end=replace(END.end_to_end, kl=2.0)))
    with pytest.raises(ConvertError, match="another recipe"):
        other.load(tmp_path / "broken.safetensors")


def test_the_model_directory_computes_what_was_distilled(
    gguf_file: Path, pin: tuple[PinnedBase, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_module, "SMOLLM2_135M_INSTRUCT", pin[0])
    distill = _distill(gguf_file)
    for _ in range(4):
        distill.train_step()
    path = tmp_path / "delta.safetensors"
    save_delta(path, distill.mixers, END.final_windows(), {}, distill.adapters)
    assert apply_delta(path, tmp_path / "model", tmp_path / "b", pin[1], pin[0])
    model = load_model(tmp_path / "model")
    assert [layer.window for layer in model.config.layers] == END.window
    tokens = torch.tensor([Text().sequence(99, 50)])
    with torch.no_grad():
        want = distill.student.logits(distill.student.hidden(tokens, distill.attend))
        torch.testing.assert_close(model(tokens), want, rtol=2e-4, atol=2e-4)
        plain = distill.teacher.logits(distill.teacher.hidden(tokens, distill.attend))
    assert not torch.allclose(want, plain, atol=1e-2)  # the adapters count
    with pytest.raises(ValueError, match="changed the base's matrices: give --base"):
        teacher_of(tmp_path / "model")


def test_too_little_memory_is_said() -> None:
    with pytest.raises(NotEnoughMemoryError, match=r"about 1000000\.0 GB needed"):
        require_memory(10**15, "end_to_end")


def test_a_run_starts_from_a_delta_and_keeps_the_most_used_components(
    gguf_file: Path, pinned_delta: tuple[Path, Transfer]
) -> None:
    path, before = pinned_delta
    same = new_transfer(gguf_file)
    same.start_from(path)
    for a, b in zip(before.mixers, same.mixers, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
    few = new_transfer(gguf_file, replace(RECIPE, components=3))
    few.start_from(path)
    tokens = few._batch(0, RECIPE.start_sequences, RECIPE.start_length)
    use = component_use(few.teacher, before.mixers, tokens)
    for old, new, used in zip(before.mixers, few.mixers, use, strict=True):
        for g in range(GROUPS):
            kept = [k for k in range(4) if k != int(used[g].argmin())]
            assert torch.equal(new.component_mean[g], old.component_mean[g, kept])
            assert torch.equal(new.slot_bias[g], old.slot_bias[g, :, kept])
        assert torch.equal(new.route, old.route)
    with pytest.raises(ConvertError, match="from 4 components to 5"):
        new_transfer(gguf_file, replace(RECIPE, components=5)).start_from(path)
    with pytest.raises(ConvertError, match="routing_dim is 4, the recipe's is 2"):
        new_transfer(gguf_file, replace(RECIPE, routing_dim=2)).start_from(path)


def test_a_run_goes_on_with_the_updates_of_a_delta(gguf_file: Path, tmp_path: Path) -> None:
    first = _distill(gguf_file)
    for _ in range(3):
        first.train_step()
    path = tmp_path / "delta.safetensors"
    save_delta(path, first.mixers, RECIPE.window, {}, first.adapters)
    tokens = torch.tensor([Text().sequence(70, 60)])
    wide = replace(END, end_to_end=replace(END.end_to_end, adapter_rank=3))
    for recipe in (END, wide):
        transfer = new_transfer(gguf_file, recipe)
        transfer.start_from(path)
        again = Distill(
            recipe, transfer.teacher, transfer.teacher, Text(), transfer.mixers, transfer.sequences
        )
        again.start_from(updates_of_delta(path))
        assert again.losses(tokens, backward=None) == pytest.approx(
            first.losses(tokens, backward=None), rel=1e-6
        )
    narrow = _distill(gguf_file, replace(END, end_to_end=replace(END.end_to_end, adapter_rank=1)))
    with pytest.raises(ConvertError, match="have rank 2, the recipe's adapter_rank is 1"):
        narrow.start_from(updates_of_delta(path))


def test_damage_of_a_window_is_what_it_costs(gguf_file: Path) -> None:
    """Small errors of one layer: the estimate is the KL that they cause."""
    transfer = new_transfer(gguf_file)
    transfer.start()
    teacher, mixers = transfer.teacher, transfer.mixers
    rows = [torch.tensor([Text().sequence(900 + n, 60)]) for n in range(30)]
    choices = [8, 24, 60]
    table = sum(damages(teacher, mixers, row, choices, n) for n, row in enumerate(rows)) / len(rows)
    assert (table[:, 2] == 0).all() and (table[:, 1] < table[:, 0]).all()
    for layer in range(LAYERS):
        windows = [59] * LAYERS  # all but exact
        windows[layer] = 24
        student = student_attention(mixers, windows)
        cost = 0.0
        with torch.no_grad():
            for row in rows:
                want = torch.log_softmax(teacher.logits(teacher.hidden(row, full_attention)), -1)
                have = torch.log_softmax(teacher.logits(teacher.hidden(row, student)), -1)
                cost += float((want.exp() * (want - have)).sum(-1).mean()) / len(rows)
        assert float(table[layer, 1]) == pytest.approx(cost, rel=0.5)


def test_rows_are_divided_best() -> None:
    gen = torch.Generator().manual_seed(0)
    choices = [2, 4, 10]
    for rows in (8, 12, 17, 40):
        table = torch.rand(4, 3, generator=gen)
        best = min(
            (sum(float(table[n, c]) for n, c in enumerate(pick)), pick)
            for pick in itertools.product(range(3), repeat=4)
            if sum(choices[c] for c in pick) <= rows
        )
        assert divide(table, choices, rows) == [choices[c] for c in best[1]]
    with pytest.raises(ValueError, match="7 rows are too few for 4 layers of 2"):
        divide(torch.rand(4, 3), choices, 7)


def test_time_ends_a_distillation_with_its_cosine(gguf_file: Path, tmp_path: Path) -> None:
    distill = _distill(gguf_file)
    distill.seconds = 59.0
    distill.train_step(59 / 60)
    assert max(g["lr"] / g["rate"] for g in distill.optimizer.param_groups) < 0.03
    distill.seconds = 61.0
    distill.run(tmp_path / "e.safetensors", minutes=1.0)
    assert distill.step == 1 and (tmp_path / "e.safetensors").exists()
