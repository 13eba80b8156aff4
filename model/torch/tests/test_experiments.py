"""Each experiment end to end at toy size, resumed after a kill, refused with one line."""

import json
import lzma
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scripts import ROOT

from gma_torch.config import GmaConfig
from gma_torch.convert.apply import apply_delta, save_delta
from gma_torch.convert.mixer import TransferMixer
from gma_torch.convert.source import open_base
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.texts import document_tokens
from gma_torch.experiments import classify, cost, judge, ladder, lm, recall, responsibilities
from gma_torch.experiments.encoder import MIXERS, Encoder
from gma_torch.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "<unk>", "1984"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in the shape of the real data."""
    root, rng = tmp_path_factory.mktemp("data"), random.Random(0)

    def text(lines):
        return "".join(" ".join(rng.choices(WORDS, k=8)) + " .\n" for _ in range(lines))

    def put(name, content):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lzma.compress(content.encode(), preset=0))

    for part, lines in (("train", 300), ("valid", 40), ("test", 40)):
        put(f"wikitext-2/wiki.{part}.tokens.xz", text(lines))
    for part, rows in (("train", 60), ("test", 30)):
        lines = (f"{n % 2}\t9\t{n}\t{'good' if n % 2 else 'bad'} film" for n in range(rows))
        put(f"imdb/{part}.tsv.xz", "label\trating\tid\ttext\n" + "\n".join(lines))
    rows = (f'"the {n % 4} news, said",{n % 4}' for n in range(40))
    put("ag-news/train-5000.csv.xz", "text,label\n" + "\n".join(rows))
    put("ag-news/test.csv.xz", "\n".join(f'{n % 4 + 1},"a","b"' for n in range(20)))
    rows = (f"{n % 10}\t( [MAX {n % 10} 0 ] )" for n in range(2050))
    put("listops/test_d20.tsv.xz", "\n".join(rows))
    put("books/train-0.txt.xz", text(400))
    put("books/valid.txt.xz", text(150))
    return root


TINY = ["--hidden_size", "16", "--layers", "1", "--heads", "2", "--intermediate_size", "96",
        "--components", "4", "--routing_dim", "4", "--steps", "3", "--batch", "2",
        "--context", "80", "--test_tokens", "200"]  # fmt: skip


def _run(experiment, out, *flags):
    assert experiment.main(["--out", str(out), "--threads", "1", *flags]) == 0
    table = json.loads((out / "table.json").read_text())
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "table.md").read_text().count("\n|") >= len(table["rows"]) + 1
    assert list((out / "cells").iterdir()) == []
    return table


def test_language_models_of_equal_size(data, tmp_path):
    table = _run(lm.EXPERIMENT, tmp_path, "--data", str(data), *TINY, "--seeds", "0", "1")
    assert [row["variant"] for row in table["rows"]] == list(lm.VARIANTS)
    sizes = [row["parameters"] for row in table["rows"]]
    assert max(sizes) - min(sizes) <= 3 * 16
    for row in table["rows"]:
        assert row["seeds"] == 2 and row["tokens"] == 3 * 2 * 80
        assert 1.0 < row["test loss"] < 4.0
    softmax = next(r for r in table["results"] if r["mixer"] == "softmax")
    assert softmax["state_bytes"] == 2 * 4 * 16 * 80
    assert set(softmax["by_position"]) == {"0-4", "4-16", "16-64", "64-80"}


def test_option_ladder_on_books(data, tmp_path):
    flags = ["--data", str(data), *TINY, "--text", "books", "--vocab_size", "280", "--seeds", "0"]
    table = _run(ladder.EXPERIMENT, tmp_path, *flags, "--intermediate_size", "200")
    assert len(table["rows"]) == len(ladder.variants())


def test_finished_cells_are_kept_and_a_killed_one_goes_on(data, tmp_path, monkeypatch):
    flags = ["--data", str(data), *TINY, "--seeds", "0"]
    whole = _run(lm.EXPERIMENT, tmp_path / "whole", *flags)
    monkeypatch.setattr("gma_torch.experiments.training._SAVE_SECONDS", 0.0)
    from gma_torch.experiments.training import CellTrainer

    step = CellTrainer.train_step
    calls = []

    def killed(self):
        calls.append(self.step)
        if len(calls) == 6:  # in the middle of the second cell
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(CellTrainer, "train_step", killed)
    out = tmp_path / "broken"
    assert lm.EXPERIMENT.main(["--out", str(out), *flags]) == 130
    with (out / "results.jsonl").open("a") as stream:
        stream.write('{"name": "cut sho')
    broken = _run(lm.EXPERIMENT, out, *flags)
    assert calls[:8] == [0, 1, 2, 0, 1, 2, 2, 0]  # the second cell goes on at its third step
    for a, b in zip(whole["results"], broken["results"], strict=True):
        assert a["test_loss"] == b["test_loss"], a["name"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere"], "nowhere/wikitext-2/wiki.train.tokens.xz: no such file"),
        (["--text", "news"], "--text is news, must be one of wikitext2, books"),
        (["--context", "9000"], "must have more than --context 9000"),
        (["--components", "3000"], "parameters more than"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, capsys, flags, message):
    assert lm.EXPERIMENT.main(["--out", str(tmp_path), "--data", str(data), *TINY, *flags]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("lm: ") and message in last


def test_other_settings_need_another_folder(data, tmp_path, capsys):
    flags = ["--data", str(data), *TINY, "--seeds", "0"]
    (tmp_path / "config.json").write_text(json.dumps({"data": str(data), "steps": 7}))
    assert lm.EXPERIMENT.main(["--out", str(tmp_path), *flags]) == 2
    assert "use the same settings or another folder" in capsys.readouterr().err
    assert np.all([p.name == "config.json" for p in tmp_path.iterdir()])


def test_recall_by_distance(tmp_path):
    flags = ["--pairs", "1", "4", "--hidden_size", "16", "--layers", "1", "--heads", "2"]
    flags += ["--intermediate_size", "96", "--components", "4", "--routing_dim", "4"]
    flags += ["--steps", "3", "--batch", "50", "--context", "40", "--seeds", "0"]
    table = _run(recall.EXPERIMENT, tmp_path, *flags)
    assert {row["pairs"] for row in table["rows"]} == {1, 4}
    assert all(0 <= row["hits"] <= 1 and row["16-32"] <= 1 for row in table["rows"])


def test_recall_sequences_hold_their_answers():
    config = recall.RecallConfig(context=60)
    task = recall.RecallTask(config, 5, 0)
    tokens, distances = task.rows(np.random.default_rng(0), 20)
    for row, gaps in zip(tokens, distances, strict=True):
        questions = range(61 - 10, 61, 2)
        for at, gap in zip(questions, gaps, strict=True):
            assert row[at] < config.keys and row[at + 1] == row[at - gap + 1]
            assert row[at] == row[at - gap]
        body = row[: 61 - 10]
        assert np.sum(body < config.keys) == 5
    assert not np.array_equal(task.batch(0), task.batch(1))


def test_activation_memory_is_counted_and_bounded(tmp_path):
    flags = ["--lengths", "64", "128", "256", "--hidden_size", "32", "--heads", "2"]
    flags += ["--components", "8", "--routing_dim", "4", "--repeats", "1"]
    table = _run(cost.EXPERIMENT, tmp_path, *flags, "--memory_gb", "0.001")
    size = {(r["variant"], r["length"]): r["activation MB"] for r in table["rows"]}
    assert size["GMA plain", 256] < 2.3 * size["GMA plain", 128]  # linear
    assert size["SDPA, no fused kernel", 128] > 2.5 * size["SDPA, no fused kernel", 64]  # square
    assert size["SDPA, no fused kernel", 256] is None
    notes = [row["note"] for row in table["rows"] if row["note"]]
    assert notes == ["needs about 0.0021 GB"]


def test_responsibilities_of_a_model(data, tmp_path):
    model = ROOT / "deploy/models/tiny/plain"
    flags = ["--model", str(model), "--text", str(data / "books/valid.txt.xz")]
    table = _run(responsibilities.EXPERIMENT, tmp_path, *flags, "--length", "64")
    layers = GmaConfig.from_directory(model).num_hidden_layers
    assert [(r["layer"], r["side"]) for r in table["rows"]][:2] == [(0, "keys"), (0, "queries")]
    assert len(table["rows"]) == 2 * layers
    for row in table["rows"]:
        assert row["purity"] >= row["max P(c)"] - 1e-9
        assert row["NMI permuted"] < 0.05
        assert row["tokens"] == 512


def test_measures_at_their_sanity_values():
    cat = torch.arange(6).repeat(2000)
    pure = torch.nn.functional.one_hot(2 * cat + torch.arange(12000) // 6 % 2, 12)
    got = responsibilities.measures(pure.double(), cat, 6)
    assert got["purity"] == pytest.approx(1) and got["NMI"] == pytest.approx(0.84, abs=0.01)
    assert got["K_eff"] == pytest.approx(12) and got["exp I"] == pytest.approx(12)
    blind = torch.softmax(torch.randn(12000, 12, generator=torch.Generator().manual_seed(0)), -1)
    got = responsibilities.measures(blind, cat, 6)
    assert got["NMI"] < 1e-3 and got["dead"] == 0
    assert got["purity"] == pytest.approx(got["max P(c)"], abs=0.02)


def test_missing_model_or_text_is_one_line(data, tmp_path, capsys):
    flags = ["--out", str(tmp_path), "--model", "nowhere"]
    assert responsibilities.EXPERIMENT.main([*flags, "--text", "none.txt"]) == 2
    assert "none.txt: no such file" in capsys.readouterr().err
    assert responsibilities.EXPERIMENT.main([*flags, "--text", str(data / "books/valid.txt.xz")])
    assert "nowhere/config.json: No such file" in capsys.readouterr().err


def test_classification(data, tmp_path):
    flags = ["--data", str(data), "--lengths", "8", "16", "--hidden_size", "16", "--layers", "1"]
    flags += ["--intermediate_size", "64", "--components", "4", "--routing_dim", "4"]
    flags += ["--steps", "3", "--batch", "4", "--seeds", "0", "--test_texts", "20"]
    table = _run(classify.EXPERIMENT, tmp_path, *flags)
    assert len(table["rows"]) == 3 * 2 * len(MIXERS)
    for task in ("imdb", "ag-news", "listops"):
        sizes = [row["parameters"] for row in table["rows"] if row["task"] == task]
        assert max(sizes) - min(sizes) <= 3 * 16 / 2 + 1
    assert all(0 <= row["accuracy"] <= 1 and row["test texts"] == 20 for row in table["rows"])


def test_classification_learns_a_word(data, tmp_path):
    """One feature decides: every mixer finds it."""
    flags = ["--data", str(data), "--tasks", "imdb", "--lengths", "16", "--steps", "60"]
    flags += ["--hidden_size", "16", "--layers", "1", "--intermediate_size", "64", "--seeds", "0"]
    flags += ["--components", "4", "--routing_dim", "4", "--lr", "1e-2"]
    table = _run(classify.EXPERIMENT, tmp_path, *flags)
    assert [row["accuracy"] for row in table["rows"]] == [1.0] * len(MIXERS)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_padding_changes_nothing(mixer):
    torch.manual_seed(0)
    model = Encoder(mixer, 20, 3, width=16, layers=2, heads=2, intermediate=24, components=4,
                    routing=4)  # fmt: skip
    tokens = torch.randint(1, 20, (2, 9))
    padded = torch.nn.functional.pad(tokens, (0, 5))
    torch.testing.assert_close(model(padded), model(tokens), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A toy model directory with a window of 16, the base that it was made from, held-out data."""
    folder, rng = tmp_path_factory.mktemp("converted"), random.Random(1)
    base = folder / "base"
    shutil.copytree(ROOT / "model/torch/tests/families/llama", base)
    save_tokenizer(train_tokenizer(iter(["the cat sat on a mat. " * 9]), 300), base)
    raw = json.loads((base / "config.json").read_text())
    torch.manual_seed(0)
    tensors = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = 0.3 * torch.randn(320, raw["hidden_size"])
    save_file(tensors, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps(raw | {"vocab_size": 320}))
    mixers = [TransferMixer(2, 2, 4, 4, 12) for _ in range(2)]
    for mixer in mixers:
        for value in mixer.parameters():
            torch.nn.init.normal_(value, std=0.2)
    note = {"base_sha256": open_base(base).fingerprint()}
    save_delta(folder / "delta.safetensors", mixers, 16, note)
    apply_delta(folder / "delta.safetensors", folder / "model", folder, base=base)
    for name in ("wikitext-2/wiki.test.raw", "books/valid.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        text = " ".join(rng.choices(WORDS, k=900))
        (folder / f"{name}.xz").write_bytes(lzma.compress(f"{text}<|endoftext|>\n".encode() * 2))
    (folder / "dolly-15k").mkdir()
    record = {"instruction": "the cat", "context": "", "response": "a mat and a dog sat"}
    lines = "".join(json.dumps(record) + "\n" for _ in range(200))
    (folder / "dolly-15k/dolly-15k.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    return folder


@pytest.mark.parametrize("test", judge.TESTS)
def test_a_converted_model_is_judged(converted, tmp_path, test, monkeypatch):
    flags = ["--test", test, "--model", str(converted / "model"), "--base", str(converted / "base"),
             "--data", str(converted), "--windows", "2", "--length", "250", "--prompts", "12",
             "--gap_low", "80", "--gap_high", "120", "--chat_first", "0", "--books", "2",
             "--ranges", "64", "128", "700", "--teacher_tokens", "100"]  # fmt: skip
    if test == "endless":  # a kill in a session that has been saved
        feed, calls = judge.GmaSession.feed, []

        def dying(self, tokens):
            calls.append(len(tokens))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return feed(self, tokens)

        monkeypatch.setattr(judge, "_SAVE_SECONDS", -1.0)
        monkeypatch.setattr(judge.GmaSession, "feed", dying)
        assert judge.EXPERIMENT.main(["--out", str(tmp_path), *flags]) == 130
        assert (tmp_path / "cells/book0-GMA/session.pt").exists()
    table = _run(judge.EXPERIMENT, tmp_path, *flags)
    rows = table["rows"]
    if test == "perplexity":
        assert [row["text"] for row in rows] == ["wiki", "books", "chat"]
        for row in rows:
            assert row["factor"] == pytest.approx(row["GMA"] / row["teacher"], abs=1e-4)
            assert row[""] == ("met" if row["factor"] <= row["gate"] else "not met")
    elif test == "endless":
        assert [row["positions"] for row in rows] == ["64-128", "128-700"]
        assert [row["tokens"] for row in rows] == [2 * 64, 2 * 572]
        assert rows[0]["teacher's tokens"] == 2 * 36 and "teacher" not in rows[1]
        assert calls[:4] == [512, 188, 188, 512]  # went on behind the 512 that were read
        by_hand = _by_hand(converted, 700)[64:128]
        mine = next(r for r in table["results"] if r["name"] == "book0-GMA")["ranges"]["64-128"]
        assert mine["loss"] == pytest.approx(sum(by_hand), rel=1e-4)
    else:
        assert [row["model"] for row in rows] == ["GMA", "teacher", "window"]
        assert all(row["prompts"] == 12 and row["right"] <= 12 for row in rows)


def _by_hand(folder, length):
    """Losses of the first book in one call."""
    model = GmaDecoder.from_directory(folder / "model")
    tokenizer = load_tokenizer(folder / "model")
    ids = torch.tensor([document_tokens(tokenizer, folder / "books/valid.txt.xz", 0, length + 1)])
    with torch.no_grad():
        logits = model(ids[:, :-1])[0]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()


def test_a_bad_judgement_is_refused(converted, tmp_path, capsys):
    flags = ["--out", str(tmp_path), "--model", str(converted / "model"), "--data", str(converted)]
    assert judge.EXPERIMENT.main([*flags, "--test", "beauty"]) == 2
    assert "--test is 'beauty', must be one of perplexity" in capsys.readouterr().err
    assert judge.EXPERIMENT.main([*flags, "--ranges", "9", "5"]) == 2
    assert judge.EXPERIMENT.main([*flags, "--base", "none", "--windows", "1", "--length", "9"]) == 2
    assert "none: no such file or folder" in capsys.readouterr().err
