"""Compiles each header of ours alone, so that including it needs nothing in front of it."""

import argparse
import itertools
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def include_flags() -> list[str]:
    """Include paths and own definitions of the release build.

    LibTorch's paths are left out: no header of ours may need them.
    """
    commands = json.loads((ROOT / "build/release/compile_commands.json").read_text())
    flags: dict[str, None] = {}
    for entry in commands:
        words = shlex.split(entry["command"])
        for word, following in itertools.pairwise(words):
            if word == "-isystem" and "/torch/" not in following:
                flags["-isystem" + following] = None
            elif word.startswith(("-I", "-DGMA_")):
                flags[word] = None
    return list(flags)


def compiles(header: str, flags: list[str]) -> str:
    """The compiler's complaint, or an empty text."""
    command = ["g++", "-std=c++20", "-fsyntax-only", "-w", "-x", "c++", *flags, f"-I{ROOT}", header]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "" if result.returncode == 0 else f"{header} is not self-contained:\n{result.stderr}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once")
    jobs = parser.parse_args().jobs
    listed = subprocess.run(
        ["git", "ls-files", "*.h"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    headers = [h for h in listed if not h.endswith("_torch.h")]
    flags = include_flags()
    with ThreadPoolExecutor(jobs) as pool:
        faults = [fault for fault in pool.map(lambda h: compiles(h, flags), headers) if fault]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
