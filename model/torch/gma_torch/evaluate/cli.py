"""`gma-eval`: perplexity and bits per byte of a model directory, by position in the text."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer

from gma_torch.checkpoint import CheckpointError
from gma_torch.config import ConfigError, GmaConfig
from gma_torch.convert.base import ConvertError
from gma_torch.convert.source import open_base
from gma_torch.decoder import GmaDecoder
from gma_torch.evaluate.report import evaluate, picture, table
from gma_torch.evaluate.scoring import (
    SINKS,
    Scorer,
    cache_bytes_per_token,
    equal_bytes_window,
    gma_scorer,
    softmax_scorer,
    state_bytes,
    teacher_of,
)
from gma_torch.evaluate.texts import Window, chat_windows, long_window, text_windows
from gma_torch.llama import Llama, window_attention
from gma_torch.tokenizer import load_tokenizer

_BASELINES = ("teacher", "window")
_LEAST = {"chat_first": 0, "windows": 1, "length": 2, "long_length": 2, "threads": 1}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gma-eval", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="FILE",
        help="text files, plain or .xz: windows evenly spaced over each",
    )  # fmt: skip
    parser.add_argument(
        "--chat", type=Path, nargs="+", default=[], metavar="FILE",
        help="JSON lines with instruction, context, response: scored on what the assistant says",
    )  # fmt: skip
    parser.add_argument(
        "--chat_first", type=int, default=0, metavar="N",
        help="leave out the first N records of chat files (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--long", type=Path, nargs="+", default=[], metavar="FILE",
        help="text files read as one session each, from the start",
    )  # fmt: skip
    parser.add_argument("--windows", type=int, default=8, help="windows a text (%(default)s)")
    parser.add_argument("--length", type=int, default=1024, help="tokens a window (%(default)s)")
    parser.add_argument(
        "--long_length", type=int, default=8192, help="tokens of a --long text (%(default)s)"
    )
    parser.add_argument(
        "--baseline", choices=_BASELINES, action="append", default=[],
        help="also score what the model was converted from (teacher: full attention; window: a "
             "sliding window with 4 sinks of equal bytes); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--base", type=Path, metavar="PATH",
        help="what the model was converted from (GGUF file or folder of safetensors), for the "
             "baselines; needed if the conversion changed its matrices",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="write eval.json and eval.png here")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch")
    return parser


def _windows(args: argparse.Namespace, tokenizer: Tokenizer) -> dict[str, list[Window]]:
    """The windows of each text, by its name."""
    out: dict[str, list[Window]] = {}
    for path in args.text:
        name = f"{path.parent.name}/{path.name.removesuffix('.xz')}"
        out[name] = text_windows(tokenizer, path, args.windows, args.length)
    roles = json.loads((args.model / "tokenizer_config.json").read_text(encoding="utf-8"))
    for path in args.chat:
        out[f"{path.parent.name}, assistant"] = chat_windows(
            tokenizer, path, args.windows, args.length,
            first=args.chat_first, system=roles["gma_chat"]["default_system"],
        )  # fmt: skip
    for path in args.long:
        name = f"{path.parent.name}/{path.name.removesuffix('.xz')}, one session"
        out[name] = long_window(tokenizer, path, args.long_length)
    return out


def _base(path: Path) -> Llama:
    base = open_base(path)
    return Llama(base.config(), base.weights())


def _scorers(args: argparse.Namespace) -> dict[str, Scorer]:
    """The model and the baselines asked for, by name."""
    config = GmaConfig.from_directory(args.model)
    size = state_bytes(config) / 1e6
    out = {f"GMA, state {size:.1f} MB": gma_scorer(GmaDecoder.from_directory(args.model))}
    if args.baseline:
        teacher = teacher_of(args.model) if args.base is None else _base(args.base)
        if "window" in args.baseline:
            width = equal_bytes_window(config)
            size = (width + SINKS) * cache_bytes_per_token(config) / 1e6
            name = f"window {width} + {SINKS} sinks, cache {size:.1f} MB"
            out[name] = softmax_scorer(teacher, window_attention(width, SINKS))
        if "teacher" in args.baseline:
            rate = cache_bytes_per_token(config) / 1e3
            out[f"full attention, cache {rate:.0f} KB a token"] = softmax_scorer(
                teacher, teacher.attention
            )
    return out


def _run(args: argparse.Namespace) -> None:
    if not args.text + args.chat + args.long:
        raise ValueError("nothing to score: give --text, --chat or --long")
    for name, least in _LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}, must be at least {least}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.model)
    texts, scorers = _windows(args, tokenizer), _scorers(args)
    results = [
        evaluate(text, name, windows, scorer)
        for text, windows in texts.items()
        for name, scorer in scorers.items()
    ]
    print(table(results))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps([asdict(r) for r in results], indent=2) + "\n"
        (args.out / "eval.json").write_text(content, encoding="utf-8")
        picture(results, args.out / "eval.png")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status (2 for anything that the user has to change)."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (OSError, ValueError, ConfigError, ConvertError, CheckpointError) as error:
        print(f"gma-eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gma-eval: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
