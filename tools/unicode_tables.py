#!/usr/bin/env python3
"""Writes model/tokenizer/unicode_tables.cc: character classes as `tokenizers` sees them.

Every code point is put before the pre-tokenizers of the installed Hugging Face `tokenizers`
(the oracle of the tests), and its class is read off the cuts they make. Python's `unicodedata`
is the second witness: where its (older) edition knows a code point, both must agree.

    tools/unicode_tables.py          writes the file
    tools/unicode_tables.py --check  fails if the file is not what would be written
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import pre_tokenizers

OUTPUT = Path(__file__).resolve().parent.parent / "model/tokenizer/unicode_tables.cc"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]  # surrogates: no text
SPACES_OF_ASCII_AND_LATIN = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}
HEADER = """\
// Written by tools/unicode_tables.py from tokenizers {version}; do not edit.
// clang-format off
#include "model/tokenizer/unicode_classes.h"

namespace gma {{
namespace {{
"""


def probe() -> dict[str, list[int]]:
    """Classes by name: code points of each, ascending.

    A character joins the piece of a letter, a number or a sign only if it is of the same class.
    """
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    found: dict[str, list[int]] = {"Letter": [], "Number": [], "Space": [], "Digit": []}
    for code_point in CODE_POINTS:
        char = chr(code_point)
        joins = [
            name
            for name, sample in (("Letter", "a"), ("Number", "1"), ("Other", "!"))
            if len(pattern.pre_tokenize_str(sample + char)) == 1
        ]
        if len(joins) > 1:
            raise SystemExit(f"U+{code_point:04X} joins {joins}: the probe does not hold")
        name = joins[0] if joins else "Space"
        if name != "Other":
            found[name].append(code_point)
        if len(digits.pre_tokenize_str(f"a{char}a")) == 3:
            found["Digit"].append(code_point)
    return found


def compare_with_unicodedata(found: dict[str, list[int]]) -> None:
    """Stops unless both sources agree on every code point that `unicodedata` has assigned."""
    classes = {c: name for name in ("Letter", "Number", "Space") for c in found[name]}
    digits = set(found["Digit"])
    for code_point in CODE_POINTS:
        category = unicodedata.category(chr(code_point))
        if category == "Cn":
            continue
        space = category[0] == "Z" or code_point in SPACES_OF_ASCII_AND_LATIN
        expected = "Space" if space else {"L": "Letter", "N": "Number"}.get(category[0])
        if classes.get(code_point) != expected or (code_point in digits) != (category[0] == "N"):
            raise SystemExit(f"U+{code_point:04X} ({category}): tokenizers and unicodedata differ")


def ranges(code_points: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive code points as (first, last)."""
    out: list[tuple[int, int]] = []
    for code_point in code_points:
        if out and out[-1][1] == code_point - 1:
            out[-1] = (out[-1][0], code_point)
        else:
            out.append((code_point, code_point))
    return out


def render(found: dict[str, list[int]]) -> str:
    """The C++ file."""
    out = HEADER.format(version=tokenizers.__version__)
    for name, code_points in found.items():
        out += f"\nconstexpr CodePointRange k{name}[] = {{\n"
        line = "   "
        for first, last in ranges(code_points):
            item = f" {{{first:#x}, {last:#x}}},"
            if len(line) + len(item) > 100:
                out += line + "\n"
                line = "   "
            line += item
        out += line + "\n};\n"
    out += "\n}  // namespace\n\n"
    for name in found:
        out += f"const absl::Span<const CodePointRange> k{name}Ranges = k{name};\n"
    return out + "\n}  // namespace gma\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    found = probe()
    compare_with_unicodedata(found)
    text = render(found)
    if not arguments.check:
        OUTPUT.write_text(text, encoding="utf-8")
    elif OUTPUT.read_text(encoding="utf-8") != text:
        print(f"{OUTPUT} is out of date: run tools/unicode_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
