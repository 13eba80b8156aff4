"""`gma-train`: trains a GMA language model on text files and writes a model directory."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from gma_torch.checkpoint import CheckpointError
from gma_torch.config import PRESETS, ConfigError, GmaConfig
from gma_torch.init import new_model
from gma_torch.tokenizer import (
    TokenizerError,
    load_tokenizer,
    save_tokenizer,
    special_ids,
    train_tokenizer,
)
from gma_torch.train.data import make_corpus, pieces, read_text, split_text
from gma_torch.train.errors import TrainError
from gma_torch.train.options import TrainOptions, require_at_least
from gma_torch.train.trainer import Trainer, read_checkpoint

_EXAMPLES = """examples:
  gma-train --train book.txt --out models/book
  gma-train --train a.txt b.txt.xz --valid c.txt --preset plain --steps 5000 --out models/plain
  gma-train --out models/book --resume        goes on exactly where the run was stopped

The output is a model directory (config.json, model.safetensors, tokenizer.json, ...) that the
server loads, with loss.png, and the last checkpoint in training/. Ctrl-C saves and stops.
"""


def _parser() -> argparse.ArgumentParser:
    defaults = TrainOptions()
    parser = argparse.ArgumentParser(
        prog="gma-train",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )

    def add(group: Any, name: str, text: str, **more: Any) -> None:
        default = getattr(defaults, name)
        if "nargs" not in more and default is not None:
            more = {"type": type(default), **more}
            text += f" (default {default})"
        group.add_argument("--" + name, help=text, **more)

    group = parser.add_argument_group("run")
    group.add_argument("--out", required=True, help="model directory to write")
    group.add_argument("--resume", action="store_true", help="continue the run in --out")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    group.add_argument("--threads", type=int, help="CPU threads (default: all)")
    group.add_argument("--stop_after", type=int, help="save and stop after this many steps")
    group = parser.add_argument_group("data")
    add(group, "train", "text files, UTF-8, plain or .xz", nargs="+", metavar="FILE")
    add(group, "valid", "held-out text files", nargs="+", metavar="FILE")
    add(group, "valid_share", "without --valid: share of the end of the text that is held out")
    add(group, "valid_tokens", "tokens of it that are used")
    add(group, "tokenizer", "tokenizer.json to use; without it one is trained on the text")
    add(group, "vocab_size", "tokens of the trained tokenizer")
    group = parser.add_argument_group("model")
    add(group, "preset", "options of the layers", choices=tuple(PRESETS))
    add(group, "config", "config.json that gives shape and options in place of the flags here")
    add(group, "hidden_size", "model width")
    add(group, "layers", "number of layers")
    add(group, "heads", "query heads")
    add(group, "memory_heads", "memory heads (default: --heads)", type=int)
    add(group, "head_dim", "width of a head (default: hidden_size / heads)", type=int)
    add(group, "components", "mixture components = memory slots a head")
    add(group, "routing_dim", "width of the routing space")
    add(group, "intermediate_size", "width of the MLP (default: 8/3 hidden_size)", type=int)
    group = parser.add_argument_group("optimisation")
    add(group, "steps", "updates")
    add(group, "batch", "sequences at once")
    add(group, "accumulate", "batches an update")
    add(group, "context", "tokens of a sequence")
    add(group, "lr", "peak learning rate")
    add(group, "scalar_lr_factor", "factor of it for gates, biases and variances")
    add(group, "warmup", "steps of linear warm-up")
    add(group, "min_lr_share", "share of the peak rate at the end of the cosine")
    add(group, "weight_decay", "decay of the matrices")
    add(group, "clip", "largest norm of the gradient")
    add(group, "precision", "auto is bf16 on a GPU", choices=("auto", "float32", "bf16"))
    add(group, "seed", "seed of weights and order of the data")
    add(group, "eval_every", "steps between measurements of the held-out loss")
    add(group, "save_every", "steps between checkpoints")
    return parser


_RUN_FLAGS = ("out", "resume", "device", "threads", "stop_after")


def _texts(options: TrainOptions) -> tuple[str, str]:
    train = "".join(read_text(path) for path in options.train)
    if options.valid:
        return train, "".join(read_text(path) for path in options.valid)
    return split_text(train, options.valid_share)


def _config(options: TrainOptions, tokenizer: Tokenizer) -> GmaConfig:
    """The shape of the model, with the tokenizer's vocabulary."""
    vocabulary = tokenizer.get_vocab_size()
    start, ends = special_ids(tokenizer)
    ids = {"vocab_size": vocabulary, "bos_token_id": start, "eos_token_id": ends or None}
    if options.config:
        return replace(GmaConfig.from_file(options.config), **ids)
    width = options.hidden_size
    return GmaConfig(
        hidden_size=width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_memory_heads=options.memory_heads,
        head_dim=options.head_dim or width // options.heads,
        num_components=options.components,
        routing_dim=options.routing_dim,
        intermediate_size=options.intermediate_size or 32 * math.ceil(width * 8 / 3 / 32),
        tie_word_embeddings=True,
        **ids,
    ).with_options(**PRESETS[options.preset])


def _tokenizer(options: TrainOptions, out: Path, resume: bool, text: str) -> Tokenizer:
    if resume:
        return load_tokenizer(out)
    if options.tokenizer:
        return load_tokenizer(options.tokenizer)
    size = GmaConfig.from_file(options.config).vocab_size if options.config else options.vocab_size
    print(f"training a tokenizer of {size} tokens ...", file=sys.stderr)
    return train_tokenizer(pieces(text), size)


def _device(name: str | None) -> torch.device:
    """The device that was asked for, or a GPU if there is one."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _prepare(flags: dict[str, Any]) -> Trainer:
    """Everything before the first step, from the command line or from a checkpoint."""
    out = Path(flags["out"])
    resume = flags.get("resume", False)
    given = {name: value for name, value in flags.items() if name not in _RUN_FLAGS}
    state = tensors = None
    if resume:
        if given:
            raise TrainError(f"--resume takes the options of the run: leave out --{min(given)}")
        state, tensors = read_checkpoint(out)
        options = TrainOptions.from_dict(state["options"])
    else:
        options = TrainOptions(**given)
        options.validate()
        if out.exists() and not out.is_dir():
            raise TrainError(f"--out is {out}, a file, must be a directory")
        if out.exists() and any(out.iterdir()):
            raise TrainError(
                f"--out is {out}, which is not empty: use --resume, or another directory"
            )
    device = _device(flags.get("device"))
    train_text, valid_text = _texts(options)
    tokenizer = _tokenizer(options, out, resume, train_text)
    config = GmaConfig.from_directory(out) if resume else _config(options, tokenizer)
    corpus = make_corpus(tokenizer, train_text, valid_text, options.context)
    trainer = Trainer(new_model(config, options.seed), corpus, options, out, device)
    if state is None:
        out.mkdir(parents=True, exist_ok=True)
        save_tokenizer(tokenizer, out)
    else:
        trainer.restore(state, tensors)
    return trainer


def _describe(trainer: Trainer) -> str:
    options, corpus = trainer.options, trainer.corpus
    count = sum(p.numel() for p in trainer.model.parameters())
    return (
        f"{count:,} parameters on {trainer.device}, {len(corpus.train):,} training tokens, "
        f"{len(corpus.valid):,} held out; {options.steps} steps of {trainer.tokens_per_step:,} "
        f"tokens = {options.steps / trainer.order.steps_per_epoch:.1f} epochs"
    )


def _stop_on_signals(trainer: Trainer) -> None:
    """The first Ctrl-C or SIGTERM ends the run after its step; a second one at once."""

    def request(number: int, _frame: object) -> None:
        trainer.stop_requested = True
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request)


def _train(flags: dict[str, Any]) -> int:
    for name in ("threads", "stop_after"):
        require_at_least(name, flags.get(name), 1)
    if "threads" in flags:
        torch.set_num_threads(flags["threads"])
    trainer = _prepare(flags)
    print(_describe(trainer), file=sys.stderr)
    _stop_on_signals(trainer)
    steps, valid = trainer.options.steps, math.nan
    with tqdm(total=steps, initial=trainer.step, unit="step", dynamic_ncols=True) as bar:

        def report(now: Trainer, speed: float) -> None:
            nonlocal valid
            entry = now.history[-1]
            valid = entry.get("valid_loss", valid)
            bar.set_postfix_str(
                f"loss {entry['train_loss']:.3f}, held out {valid:.3f}, {speed:,.0f} tokens/s"
            )
            bar.update()

        trainer.run(report, flags.get("stop_after"))
    if trainer.step < steps:
        trainer.save()
        print(f"stopped at step {trainer.step} of {steps}; --resume goes on", file=sys.stderr)
        return 130 if trainer.stop_requested else 0
    loss = trainer.history[-1]["valid_loss"]
    bits = loss / math.log(2) * len(trainer.corpus.valid) / trainer.corpus.valid_bytes
    print(
        f"{trainer.out}: held-out loss {loss:.4f} nats a token, perplexity {math.exp(loss):.2f}, "
        f"{bits:.3f} bits a byte; curve in {trainer.out / 'loss.png'}"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 130 for Ctrl-C."""
    flags = vars(_parser().parse_args(argv))
    try:
        return _train(flags)
    except (TrainError, ConfigError, CheckpointError, TokenizerError, OSError) as error:
        print(f"gma-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
