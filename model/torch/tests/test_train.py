"""gma-train: data, schedule, exact resume, clear errors."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gma_torch.config import PRESETS, GmaConfig
from gma_torch.decoder import GmaDecoder
from gma_torch.init import new_model
from gma_torch.responsibilities import variance
from gma_torch.tokenizer import load_tokenizer, train_tokenizer
from gma_torch.train.cli import main
from gma_torch.train.data import BatchOrder, encode, pieces, split_text, valid_batches
from gma_torch.train.errors import TrainError
from gma_torch.train.options import TrainOptions
from gma_torch.train.trainer import parameter_groups

_RUN = ["--vocab_size", "280", "--hidden_size", "32", "--layers", "2", "--heads", "2"]
_RUN += ["--components", "8", "--routing_dim", "4", "--context", "32", "--batch", "4"]
_RUN += ["--steps", "12", "--warmup", "3", "--eval_every", "5", "--save_every", "5"]
_RUN += ["--valid_tokens", "500"]


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "1984", "naïve"]
    lines = [" ".join(rng.choice(words, 8)) + ".\n" for _ in range(800)]
    path = tmp_path / "text.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resumed_run_equals_an_unbroken_one(preset, text, tmp_path, capsys):
    flags = ["--train", str(text), *_RUN, "--preset", preset]
    flags += ["--context", "96", "--batch", "2"]  # longer than the window of 64
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*flags, "--out", str(whole)]) == 0
    assert main([*flags, "--out", str(broken), "--stop_after", "4"]) == 0
    assert main(["--out", str(broken), "--resume", "--stop_after", "3"]) == 0
    assert main(["--out", str(broken), "--resume"]) == 0
    assert "held-out loss" in capsys.readouterr().out
    for name in ("model.safetensors", "training/state.safetensors"):
        a, b = load_file(whole / name), load_file(broken / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    histories = [
        json.loads((path / "training/state.json").read_text())["history"]
        for path in (whole, broken)
    ]
    assert histories[0] == histories[1]
    assert [entry["step"] for entry in histories[0]] == list(range(1, 13))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_learns_and_writes_a_whole_model_directory(precision, text, tmp_path):
    out = tmp_path / "out"
    flags = ["--train", str(text), *_RUN, "--steps", "60", "--lr", "5e-3", "--out", str(out)]
    assert main([*flags, "--precision", precision]) == 0
    history = json.loads((out / "training/state.json").read_text())["history"]
    assert history[0]["train_loss"] == pytest.approx(math.log(280), abs=0.3)
    assert history[-1]["valid_loss"] < history[0]["train_loss"] - 1.0
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    tokenizer = load_tokenizer(out)
    model = GmaDecoder.from_directory(out)
    assert model.config.vocab_size == tokenizer.get_vocab_size() == 280
    for name in ("tokenizer_config.json", "generation_config.json"):
        json.loads((out / name).read_text())


def test_ctrl_c_saves_and_resumes(text, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gma_torch.train.cli", "--train", str(text), *_RUN]
    command += ["--steps", "100000", "--save_every", "100000", "--out", str(out), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    seen = b""
    while b"tokens/s" not in seen:
        part = os.read(process.stderr.fileno(), 4096)
        assert part, seen.decode()
        seen += part
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "--resume goes on" in rest
    step = json.loads((out / "training/state.json").read_text())["step"]
    assert step >= 1
    assert main(["--out", str(out), "--resume", "--stop_after", "1"]) == 0
    assert json.loads((out / "training/state.json").read_text())["step"] == step + 1


def test_the_output_must_be_an_empty_directory(text, tmp_path, capsys):
    for out, message in ((text, "a file, must be a directory"), (text.parent, "not empty")):
        assert main(["--train", str(text), "--out", str(out)]) == 2
        assert f"--out is {out}" in (error := capsys.readouterr().err)
        assert message in error
    assert main(["--train", str(text), *_RUN, "--out", str(text / "below")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_changed_text_is_refused_on_resume(text, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--train", str(text), *_RUN, "--out", str(out), "--stop_after", "1"]) == 0
    text.write_text(text.read_text().replace("cat", "dog"))
    assert main(["--out", str(out), "--resume"]) == 2
    assert "is not what the run began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--train is missing"),
        (["--train", "absent.txt"], "absent.txt: no such file"),
        (["--train", "TEXT", "--lr", "nan"], "--lr is nan"),
        (["--train", "TEXT", "--steps", "0"], "--steps is 0, must be at least 1"),
        (["--train", "TEXT", "--vocab_size", "20"], "--vocab_size is 20, must be at least 259"),
        (["--train", "TEXT", "--heads", "3"], "must be a multiple of --heads, which is 3"),
        (["--train", "TEXT", "--memory_heads", "3"], "num_memory_heads = 3, must divide"),
        (["--train", "TEXT", "--context", "9000000"], "must have more than --context"),
        (["--train", "TEXT", "--config", "absent.json"], "absent.json: No such file"),
        (["--train", "TEXT", "--tokenizer", "absent.json"], "absent.json: no such file"),
        (["--train", "TEXT", "--device", "abacus"], "--device abacus"),
        (["--resume"], "no checkpoint to resume from"),
        (["--train", "TEXT", "--head_dim", "-2"], "--head_dim is -2, must be at least 1"),
        (["--train", "TEXT", "--threads", "0"], "--threads is 0, must be at least 1"),
        (["--train", "TEXT", "--stop_after", "0"], "--stop_after is 0, must be at least 1"),
    ],
)
def test_mistakes_end_with_one_clear_line(flags, message, text, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [str(text) if flag == "TEXT" else flag for flag in flags]
    assert main([*flags, "--out", str(out)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("gma-train: ") and message in last
    assert not out.exists()


def test_existing_output_is_not_overwritten(text, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert main(["--train", str(text), "--out", str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_pieces_have_the_tokens_of_the_whole_text(monkeypatch):
    monkeypatch.setattr("gma_torch.train.data._PIECE", 7)
    text = "One two\n\n  three\nfour 1984\n\n\nfive\r\n six\tseven\nit's\n" * 20 + "end\n\n"
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert len(parts) > 20
    tokenizer = train_tokenizer(iter([text]), 300)
    assert encode(tokenizer, text).tolist() == tokenizer.encode(text).ids
    assert encode(tokenizer, "").tolist() == []


def test_an_epoch_sees_every_block_once_and_order_depends_on_seed_and_step_alone():
    tokens = np.arange(1003, dtype=np.uint32)
    order = BatchOrder(tokens, context=10, batch=3, seed=5)
    count = round(order.steps_per_epoch * 3)
    rows = [row for step in range(count) for row in order.batch(step)]
    for epoch in range(3):
        first = sorted(int(row[0]) for row in rows[epoch * count : (epoch + 1) * count])
        assert len({b - a for a, b in zip(first, first[1:], strict=False)}) == 1
    again = BatchOrder(tokens, context=10, batch=3, seed=5)
    assert torch.equal(again.batch(77), order.batch(77))
    assert not torch.equal(BatchOrder(tokens, 10, 3, 6).batch(77), order.batch(77))
    for row in rows:
        assert torch.equal(row, torch.arange(int(row[0]), int(row[0]) + 11))


def test_the_smallest_corpus_is_one_block():
    order = BatchOrder(np.arange(11, dtype=np.uint32), context=10, batch=2, seed=0)
    assert order.batch(0).tolist() == [list(range(11))] * 2


def test_validation_covers_the_text_without_overlap():
    parts = list(valid_batches(np.arange(105, dtype=np.uint32), context=10, batch=4, limit=1000))
    targets = torch.cat([part[:, 1:].flatten() for part in parts])
    assert targets.tolist() == list(range(1, 101))


def test_the_held_out_end_starts_at_a_line():
    train, valid = split_text("a\nbb\nccc\ndddd\n", 0.3)
    assert (train, valid) == ("a\nbb\nccc\n", "dddd\n")


def test_schedule_warms_up_and_ends_at_its_floor():
    options = TrainOptions(lr=2.0, warmup=10, steps=110, min_lr_share=0.1)
    rates = [options.learning_rate(step) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.1)
    assert rates[110] == pytest.approx(0.2)
    with pytest.raises(TrainError):
        TrainOptions(train=["x"], warmup=-1).validate()


_CONFIG = GmaConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    head_dim=8,
    num_components=6,
    routing_dim=4,
    intermediate_size=32,
)


def test_scalars_learn_faster_and_norms_do_not_decay():
    model = new_model(_CONFIG.with_options(**PRESETS["from_scratch"]), 0)
    groups = parameter_groups(model, TrainOptions())
    names = {id(p): name.rsplit("mixer.", 1)[-1] for name, p in model.named_parameters()}
    listed = [[names[id(p)] for p in group["params"]] for group in groups]
    assert sorted(sum(listed, [])) == sorted(names.values())
    assert set(listed[2]) == {"component_omega", "prior_logits", "forget_bias", "forget_a_log"}
    assert {"component_mean", "conv_weight", "out_norm.weight", "model.norm.weight"} < set(
        listed[1]
    )
    assert "o_proj.weight" in listed[0] and "forget_proj.weight" in listed[0]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
    assert groups[2]["factor"] == 5.0


def test_initial_routing_is_shared_and_time_scales_are_spread():
    mixer = new_model(_CONFIG.with_options(forget="write"), 3).model.layers[0].mixer
    assert torch.equal(mixer.route_q_proj.weight, mixer.route_k_proj.weight)
    var = variance(mixer.component_omega, "bounded")
    torch.testing.assert_close(var, torch.full_like(var, 1.0))  # sqrt(4) / 2
    beta = torch.nn.functional.softplus(mixer.forget_beta)
    assert beta.tolist() == pytest.approx([0.02, 0.0843, 0.3557, 1.5], rel=1e-3)
    grouped = GmaConfig.from_dict(_CONFIG.to_dict() | {"num_memory_heads": 2})
    mixer = new_model(grouped, 3).model.layers[0].mixer
    q = mixer.route_q_proj.weight.unflatten(0, (2, 2, 4))
    k = mixer.route_k_proj.weight.unflatten(0, (2, 1, 4))
    assert torch.equal(q, k.expand_as(q))
