"""Checks include edges against tools/layers.txt, and sizes of files, headers and functions."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE, MAX_HEADER, MAX_FUNCTION = 400, 200, 60
# Generated tables are as long as their subject.
GENERATED = {"model/tokenizer/unicode_tables.cc"}
# The last line of a function's head: `) {`, `) const {`, an initialiser list, at up to 4 spaces.
FUNCTION = re.compile(
    r"^( {0,4})(?!if|for|while|switch|else|do |namespace|class|struct|enum|case|#|return)"
    r"\S.*\)( const| override| noexcept)* \{$"
)
INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


def tracked(*patterns: str) -> list[str]:
    """Paths of tracked files that match the git patterns."""
    out = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [line for line in out.stdout.splitlines() if (ROOT / line).is_file()]


def read_layers() -> dict[str, set[str]]:
    """tools/layers.txt as folder -> folders it may include."""
    layers = {}
    for line in (ROOT / "tools/layers.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            folder, _, allowed = line.partition(":")
            layers[folder] = {*allowed.split(), folder}
    return layers


def layer_of(path: str, layers: dict[str, set[str]]) -> str | None:
    """The longest listed folder that holds the path."""
    fits = [folder for folder in layers if path.startswith(folder + "/")]
    return max(fits, key=len) if fits else None


def check_layers(path: str, text: str, layers: dict[str, set[str]]) -> list[str]:
    """Include edges of one file that layers.txt does not list."""
    if path.startswith("tests/"):
        return []
    own = layer_of(path, layers)
    if own is None:
        return [f"{path}: its folder is not in tools/layers.txt"]
    faults = []
    for include in INCLUDE.findall(text):
        target = "proto" if include.startswith("gma/v1/") else layer_of(include, layers)
        if target is not None and target not in layers[own]:
            faults.append(f"{path}: {own} may not include {include} (tools/layers.txt)")
        if "torch" in include or include.startswith(("ATen/", "c10/")):
            if own != "model/decoder":
                faults.append(f"{path}: LibTorch belongs in model/decoder alone ({include})")
            elif path.endswith(".h") and not path.endswith("_torch.h"):
                faults.append(f"{path}: a header that shows LibTorch is named *_torch.h")
    return faults


def check_sizes(path: str, text: str) -> list[str]:
    """Files and functions that are too long. A function ends where its brace is closed again."""
    lines = text.splitlines()
    limit = MAX_HEADER if path.endswith((".h", ".cuh")) else MAX_FILE
    faults = []
    if len(lines) > limit and path not in GENERATED:
        faults.append(f"{path}: {len(lines)} lines, limit {limit}")
    open_at: dict[str, int] = {}  # indentation -> line of the function that opened there
    for number, line in enumerate(lines, 1):
        opening = FUNCTION.match(line)
        closing = re.match(r"^( *)\}", line)
        if closing:
            for inner in [indent for indent in open_at if len(indent) > len(closing[1])]:
                del open_at[inner]  # the head of a lambda, say, that was closed in another column
        if closing and closing[1] in open_at:
            start = open_at.pop(closing[1])
            if number - start + 1 > MAX_FUNCTION:
                length = number - start + 1
                faults.append(f"{path}:{start}: function of {length} lines, limit {MAX_FUNCTION}")
        if opening:
            # An initialiser list stands four columns behind its function.
            initialises = line.lstrip().startswith(":")
            open_at[opening[1][4:] if initialises else opening[1]] = number
    return faults


def main() -> int:
    layers = read_layers()
    faults = []
    for path in tracked("*.h", "*.cc", "*.cu", "*.cuh"):
        text = (ROOT / path).read_text(encoding="utf-8")
        faults += check_layers(path, text, layers) + check_sizes(path, text)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
