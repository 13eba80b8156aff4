"""Judges a converted model against its teacher: perplexity, recall, exact copies, endless texts.

`python -m gma_torch.experiments.judge --test perplexity --model M --data D --out O`, one folder a
test. Three models everywhere: GMA; the teacher, which is the pinned base with full attention; and
the teacher with a sliding window and sinks of as many bytes as the GMA state.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gma_torch.checkpoint import replace_file
from gma_torch.config import GmaConfig
from gma_torch.convert.base import ConvertError
from gma_torch.convert.data import DOLLY_HELD_OUT, ChatEncoder, read_jsonl
from gma_torch.convert.source import open_base
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.questions import Prompt, copy_prompts, recall_prompts
from gma_torch.evaluate.report import evaluate
from gma_torch.evaluate.scoring import (
    SINKS,
    equal_bytes_window,
    gma_scorer,
    softmax_scorer,
    state_bytes,
)
from gma_torch.evaluate.sessions import (
    KEPT_TYPES,
    GmaSession,
    Session,
    TeacherSession,
    WindowSession,
    greedy_answer,
)
from gma_torch.evaluate.texts import Window, chat_windows, document_tokens, text_windows
from gma_torch.experiments.harness import Cell, Experiment, Result
from gma_torch.experiments.judge_tables import figure, rows
from gma_torch.gguf_base import DEFAULT_SYSTEM
from gma_torch.llama import Llama, window_attention
from gma_torch.tokenizer import load_tokenizer
from gma_torch.train.errors import TrainError

TESTS = ("perplexity", "recall", "copy", "endless")
MODELS = ("GMA", "teacher", "window")
TEXTS = ("wiki", "books", "chat")
_CHUNK = 10  # prompts a cell
_PIECE = 512
_SAVE_SECONDS = 45.0
_ANSWER_TOKENS = 24


@dataclass
class JudgeConfig:
    """Every field is a flag.

    Attributes:
        ranges: edges of the positions that `endless` reports; its texts end at the last.
        teacher_tokens: where the teacher's curve of `endless` ends: its cost grows as the square.
        books: books of books/valid that open a session each; the later ones follow in order.
        chat_first: earlier records of Dolly are trained on.
    """

    test: str = "perplexity"
    model: str = "build/models/default"
    base: str = "build/base/SmolLM2-135M-Instruct.Q4_1.gguf"
    data: str = "data"
    windows: int = 8
    length: int = 1024
    prompts: int = 240
    gap_low: int = 300
    gap_high: int = 950
    books: int = 3
    ranges: list[int] = field(default_factory=lambda: [256, 1024, 2048, 8192, 65536, 524288])
    teacher_tokens: int = 12288
    chat_first: int = DOLLY_HELD_OUT


def _cells(config: JudgeConfig) -> list[Cell]:
    """What to run, in an order in which the models advance together."""
    if config.test not in TESTS:
        raise TrainError(f"--test is {config.test!r}, must be one of {', '.join(TESTS)}")
    if config.ranges != sorted(set(config.ranges)) or len(config.ranges) < 2:
        raise TrainError("--ranges must be at least two rising positions")
    if config.test == "perplexity":
        return [{"name": f"{t}-{m}", "text": t, "model": m} for t in TEXTS for m in MODELS]
    if config.test == "endless":
        return [
            {"name": f"book{b}-{m}", "book": b, "model": m}
            for b in range(config.books)
            for m in MODELS
        ]
    return [
        {"name": f"{first}-{m}", "first": first, "model": m}
        for first in range(0, config.prompts, _CHUNK)
        for m in MODELS
    ]


@functools.lru_cache(maxsize=1)
def _gma(folder: str) -> GmaDecoder:
    return GmaDecoder.from_directory(folder)


@functools.lru_cache(maxsize=1)
def _teacher(path: str) -> Llama:
    try:
        base = open_base(Path(path))
    except ConvertError as error:
        raise TrainError(str(error)) from None
    return Llama(base.config(), base.weights())


def _session(config: JudgeConfig, model: str) -> Session:
    if model == "GMA":
        return GmaSession(_gma(config.model))
    if model == "teacher":
        return TeacherSession(_teacher(config.base))
    width = equal_bytes_window(GmaConfig.from_directory(config.model))
    return WindowSession(_teacher(config.base), width, SINKS)


def _texts(config: JudgeConfig, text: str) -> list[Window]:
    tokenizer, data = load_tokenizer(config.model), Path(config.data)
    if text == "chat":
        return chat_windows(
            tokenizer, data / "dolly-15k/dolly-15k.jsonl.xz", config.windows, config.length,
            first=config.chat_first, system=DEFAULT_SYSTEM,
        )  # fmt: skip
    name = {"wiki": "wikitext-2/wiki.test.raw.xz", "books": "books/valid.txt.xz"}[text]
    return text_windows(tokenizer, data / name, config.windows, config.length)


def _perplexity(config: JudgeConfig, cell: Cell) -> Result:
    if cell["model"] == "GMA":
        scorer = gma_scorer(_gma(config.model))
    elif cell["model"] == "teacher":
        scorer = softmax_scorer(_teacher(config.base), _teacher(config.base).attention)
    else:
        width = equal_bytes_window(GmaConfig.from_directory(config.model))
        scorer = softmax_scorer(_teacher(config.base), window_attention(width, SINKS))
    found = evaluate(cell["text"], cell["model"], _texts(config, cell["text"]), scorer)
    return {"tokens": found.tokens, "perplexity": found.perplexity, "by_position": found.buckets,
            "window_losses": found.window_losses}  # fmt: skip


@functools.lru_cache(maxsize=1)
def _prompts(
    test: str, model: str, data: str, first: int, count: int, gaps: tuple[int, int]
) -> list[Prompt]:
    encoder = ChatEncoder(load_tokenizer(model))
    records = read_jsonl(Path(data) / "dolly-15k/dolly-15k.jsonl.xz")[first:]
    make = recall_prompts if test == "recall" else copy_prompts
    return make(encoder, records, count, gaps)


def _ask(config: JudgeConfig, cell: Cell) -> Result:
    prompts = _prompts(
        config.test, config.model, config.data, config.chat_first, config.prompts,
        (config.gap_low, config.gap_high),
    )[cell["first"] : cell["first"] + _CHUNK]  # fmt: skip
    tokenizer = load_tokenizer(config.model)
    end = GmaConfig.from_directory(config.model).eos_token_id
    answers = []
    for ids, word in prompts:
        out = greedy_answer(_session(config, cell["model"]), ids, end, _ANSWER_TOKENS)
        text = tokenizer.decode(out)
        answers.append({"tokens": len(ids), "word": word, "right": word in text, "text": text})
    return {"answers": answers}


def _endless(config: JudgeConfig, cell: Cell, folder: Path) -> Result:
    """Losses of one session by range; what is read so far is kept about once a minute."""
    tokenizer = load_tokenizer(config.model)
    length = config.ranges[-1] + 1
    if cell["model"] == "teacher":
        length = min(length, config.teacher_tokens + 1)
    path = Path(config.data) / "books/valid.txt.xz"
    tokens = torch.tensor(document_tokens(tokenizer, path, cell["book"], length))
    session, kept = _session(config, cell["model"]), folder / "session.pt"
    losses: list[float] = []
    if kept.exists():
        with torch.serialization.safe_globals(list(KEPT_TYPES)):
            found = torch.load(kept, weights_only=True)
        session.kept, losses = found["kept"], found["losses"]
    saved = time.monotonic()
    while len(losses) < len(tokens) - 1:
        piece = tokens[len(losses) : min(len(losses) + _PIECE, len(tokens) - 1)]
        target = tokens[len(losses) + 1 : len(losses) + 1 + len(piece)]
        logits = session.feed(piece).float()
        losses += torch.nn.functional.cross_entropy(logits, target, reduction="none").tolist()
        if time.monotonic() - saved > _SAVE_SECONDS:
            torch.save({"kept": session.kept, "losses": losses}, kept.with_suffix(".new"))
            replace_file(kept, kept.with_suffix(".new").read_bytes())
            saved = time.monotonic()
    out: dict[str, Any] = {"tokens": len(losses), "ranges": {}}
    for low, high in zip(config.ranges, config.ranges[1:], strict=False):
        inside = losses[low:high]
        if inside:  # the curve of a text that ends inside is of what there is
            out["ranges"][f"{low}-{high}"] = {"tokens": len(inside), "loss": math.fsum(inside)}
    return out


def _run(config: JudgeConfig, cell: Cell, folder: Path) -> Result:
    model = GmaConfig.from_directory(config.model)
    about = {"test": config.test, "state_bytes": state_bytes(model),
             "window": equal_bytes_window(model)}  # fmt: skip
    if config.test == "perplexity":
        return {**about, **_perplexity(config, cell)}
    if config.test == "endless":
        return {**about, **_endless(config, cell, folder)}
    return {**about, **_ask(config, cell)}


EXPERIMENT = Experiment(
    name="judge",
    about="A converted model against its teacher and against a window with sinks of equal bytes.",
    config=JudgeConfig,
    cells=_cells,
    run=_run,
    rows=rows,
    figure=figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
