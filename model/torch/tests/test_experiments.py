"""Each experiment end to end at toy size, resumed after a kill, refused with one line."""

import json
import lzma
import random

import numpy as np
import pytest

from gma_torch.experiments import ladder, lm

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
