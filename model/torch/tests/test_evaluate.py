"""Evaluation: windows, masks, losses, equal bytes, the report and gma-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from gma_torch.checkpoint import save_model
from gma_torch.config import PRESETS, GmaConfig
from gma_torch.convert.data import ChatEncoder
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.cli import main
from gma_torch.evaluate.questions import copy_prompts, recall_prompts
from gma_torch.evaluate.report import evaluate, table
from gma_torch.evaluate.scoring import (
    cache_bytes_per_token,
    equal_bytes_window,
    gma_scorer,
    softmax_scorer,
    state_bytes,
    teacher_of,
)
from gma_torch.evaluate.sessions import KEPT_TYPES, GmaSession, TeacherSession, WindowSession
from gma_torch.evaluate.texts import Window, chat_windows, document_tokens, text_windows
from gma_torch.llama import Llama, full_attention, window_attention
from gma_torch.tokenizer import chat_roles, save_tokenizer, train_tokenizer

WORDS = "the cat saw a dog and the dog saw the cat but neither of them said a word about it. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the options of a converted one, and its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(train_tokenizer(iter([WORDS * 3]), 300), path)
    file = path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["gma_chat"] = chat_roles("Be brief.")
    file.write_text(json.dumps(config))
    size = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    model_config = GmaConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_components=8, routing_dim=4, intermediate_size=48, num_memory_heads=2,
        tie_word_embeddings=True, eos_token_id=2,
    ).with_options(**{**PRESETS["converted"], "window": 16})  # fmt: skip
    torch.manual_seed(0)
    model = GmaDecoder(model_config)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.4 * torch.randn_like(value))
    save_model(model, path)
    return path


def test_losses_through_the_state_equal_those_of_one_forward(folder: Path) -> None:
    model = GmaDecoder.from_directory(folder, dtype=torch.float64)
    tokens = torch.randint(3, 280, (1200,), generator=torch.Generator().manual_seed(0))
    got = gma_scorer(model)(tokens)
    with torch.no_grad():
        want = F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="none")
    torch.testing.assert_close(got, want.to(got.dtype), rtol=1e-5, atol=1e-5)


def test_the_teacher_inside_agrees_while_the_window_holds_everything(folder: Path) -> None:
    tokens = torch.arange(20, 37)  # 16 are fed: the window's length
    teacher = softmax_scorer(teacher_of(folder), full_attention)(tokens)
    student = gma_scorer(GmaDecoder.from_directory(folder))(tokens)
    torch.testing.assert_close(teacher, student, rtol=1e-4, atol=1e-4)


def test_state_bytes_count_the_tensors_of_a_full_state(folder: Path) -> None:
    model = GmaDecoder.from_directory(folder)
    with torch.no_grad():
        _, state = model.prefill(torch.full((1, 40), 5), model.initial_state(1))
    tensors = [t for layer in state.layers for t in vars(layer).values() if t is not None]
    assert state_bytes(model.config) == sum(t.numel() * t.element_size() for t in tensors)
    cache = cache_bytes_per_token(model.config)
    assert cache == 2 * 2 * 2 * 8 * 4
    window = equal_bytes_window(model.config)
    assert (window + 4) * cache <= state_bytes(model.config) < (window + 5) * cache


def test_windows_are_spread_and_bytes_are_counted(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{n} {WORDS}é" for n in range(80)), encoding="utf-8")
    windows = text_windows(tokenizer, file, 3, 100)
    assert [len(w.tokens) for w in windows] == [100, 100, 100]
    for window in windows:
        text = tokenizer.decode(window.tokens[1:].tolist())
        assert int(window.bytes.sum()) == len(text.encode()) or "\ufffd" in text
    whole = tokenizer.encode(file.read_text(encoding="utf-8")).ids
    assert windows[0].tokens.tolist() == whole[:100]
    assert windows[-1].tokens.tolist() in (whole[-100:], whole[-101:-1])


def test_only_the_assistants_words_count(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file = tmp_path / "chat.jsonl"
    record = {"instruction": "the dog", "context": "", "response": "a cat"}
    file.write_text("\n".join(json.dumps(record) for _ in range(60)))
    (window,) = chat_windows(tokenizer, file, 1, 60, first=10, system="Be brief.")
    said = window.tokens[1:][window.counted].tolist()
    text = tokenizer.decode(said, skip_special_tokens=False)
    assert set(text.replace("<|im_end|>", "|").strip("|").split("|")) <= {
        "a cat",
        "a ca",
        "a c",
        "a",
    }
    assert int(window.bytes[window.counted][-1]) >= 0
    with pytest.raises(ValueError, match="50 records are too few for 50 windows"):
        chat_windows(tokenizer, file, 50, 60, first=10, system="")


def test_perplexity_and_buckets_of_known_losses() -> None:
    window = Window(torch.zeros(101, dtype=torch.long), torch.ones(100) > 0, torch.full((100,), 2))
    losses = torch.where(torch.arange(1, 101) < 64, math.log(4), math.log(16))
    result = evaluate("t", "m", [window], lambda _tokens: losses)
    assert result.buckets == pytest.approx({"0-64": 4.0, "64-256": 16.0})
    assert result.perplexity == pytest.approx(
        math.exp((63 * math.log(4) + 37 * math.log(16)) / 100)
    )
    assert result.bits_per_byte == pytest.approx((63 * 2 + 37 * 4) / 200)
    assert "| t | m | 100 |" in table([result])


def test_command_writes_table_json_and_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(WORDS * 40)
    arguments = [str(folder), "--text", str(text), "--long", str(text), "--long_length", "300",
                 "--windows", "2", "--length", "96", "--baseline", "teacher", "--baseline",
                 "window", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(arguments) == 0
    assert "full attention" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/eval.json").read_text())
    assert len(results) == 6
    assert all(math.isfinite(r["perplexity"]) for r in results)
    assert (tmp_path / "out/eval.png").read_bytes().startswith(b"\x89PNG")


def test_faults_of_the_command_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(folder / "config.json")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for arguments, message in (
        ([], "--text"),
        (["--text", str(tmp_path / "none.txt")], "none.txt: No such file"),
        (["--text", str(tmp_path / "latin.txt")], "latin.txt: 'utf-8'"),
        (["--text", str(tmp_path / "empty.txt")], "the text has 0 tokens, must have at least 2"),
        (["--long", str(tmp_path / "empty.txt")], "the text has 0 tokens, must have at least 2"),
        (["--text", text, "--length", "1"], "--length is 1, must be at least 2"),
        (["--text", text, "--threads", "0"], "--threads is 0, must be at least 1"),
        (["--chat", str(tmp_path / "other.jsonl")], "record 0 must be an object with instruction"),
        (["--chat", str(tmp_path / "empty.txt")], "0 records"),
        (["--chat", text], "config.json: line 1 is not JSON"),
    ):
        assert main([str(folder), *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("gma-eval: ")
        assert "\n" not in error
        assert message in error
    assert main([str(tmp_path), "--text", text]) == 2
    assert "tokenizer.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("make", [recall_prompts, copy_prompts])
def test_prompts_hold_the_word_once_told_and_then_asked_for(folder: Path, make: Callable) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    record = {"instruction": "the dog", "context": "", "response": "a cat"}
    prompts = make(ChatEncoder(tokenizer), [record] * 5, 24, (300, 600))
    assert len({word for _, word in prompts}) == (18 if make is recall_prompts else 24)
    lengths = [len(ids) for ids, _ in prompts]
    assert min(lengths) >= 300 and max(lengths) >= 600 and lengths != sorted(lengths)
    for ids, word in prompts:
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert word in text.split("<|im_end|>")[1]
        assert word not in "".join(text.split("<|im_end|>")[3:])
        assert text.endswith("<|im_start|>assistant\n")


def test_sessions_read_in_any_pieces(folder: Path, tmp_path: Path) -> None:
    """GMA, teacher and window: in pieces, through files, as in one call or by their definition."""
    model, teacher = GmaDecoder.from_directory(folder), teacher_of(folder)
    gen = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 200, (60,), generator=gen)
    window, sinks = 9, 3
    makers = [lambda: GmaSession(model), lambda: TeacherSession(teacher),
              lambda: WindowSession(teacher, window, sinks)]  # fmt: skip
    for make in makers:
        whole, parts = make(), make()
        want = whole.feed(tokens)
        logits = []
        for piece in tokens.split([7, 1, 2, 30, 20]):
            logits.append(parts.feed(piece))
            torch.save(parts.kept, tmp_path / "kept.pt")
            parts = make()
            with torch.serialization.safe_globals(list(KEPT_TYPES)):
                parts.kept = torch.load(tmp_path / "kept.pt", weights_only=True)
        got = torch.cat(logits)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-4)
    fitting = WindowSession(teacher, window, sinks).feed(tokens[: window + sinks])
    plain = teacher.hidden(tokens[None, : window + sinks], window_attention(window, sinks))
    torch.testing.assert_close(fitting, teacher.logits(plain)[0], rtol=1e-3, atol=2e-4)
    one = Llama(
        replace(teacher.config, num_layers=1), teacher.weights
    )  # one layer: a cache by hand
    last = WindowSession(one, window, sinks).feed(tokens)[-1]
    cache = torch.cat([tokens[:sinks], tokens[-window:]])
    by_hand = one.logits(one.hidden(cache[None], full_attention))[0, -1]
    torch.testing.assert_close(last, by_hand, rtol=1e-3, atol=2e-4)


def test_a_document_session_goes_on_with_the_next(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (tmp_path / "t.txt").write_text("the cat<|endoftext|>\na dog<|endoftext|>\n")
    path = tmp_path / "t.txt"
    want = [i for text in ("a dog", "the cat") for i in tokenizer.encode(text).ids]
    assert document_tokens(tokenizer, path, 1, len(want)) == want
    with pytest.raises(ValueError, match=f"has {len(want)} tokens, {len(want) + 1} wanted"):
        document_tokens(tokenizer, path, 1, len(want) + 1)
