#!/usr/bin/env python3
"""Reads the text that Prometheus scrapes; as a program, writes the list that the test compares.

cd tests/integration
curl -s 127.0.0.1:9464/metrics | ./metrics_text.py > metrics_golden.txt
"""

from __future__ import annotations

import re
import sys

# Labels whose values are not the same on every machine and in every version.
OPEN_LABELS = {"model_name", "version", "fingerprint", "device", "weights"}
SERIES = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def describe(text: str) -> list[str]:
    """One line a family of ours: name, type, labels (with their values where closed) and help."""
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    labels: dict[str, dict[str, set[str]]] = {}
    for line in text.splitlines():
        words = line.split(" ", 3)
        if words[:2] == ["#", "HELP"]:
            helps[words[2]] = words[3]
        elif words[:2] == ["#", "TYPE"]:
            kinds[words[2]] = words[3]
        elif match := SERIES.match(line):
            name = match[1]
            if name not in kinds:
                name = re.sub(r"_(bucket|sum|count)$", "", name)
            for label, value in LABEL.findall(match[2] or ""):
                labels.setdefault(name, {}).setdefault(label, set()).add(value)
    out = []
    for name in sorted(n for n in kinds if n.startswith("gma_")):
        shown = []
        for label, values in sorted(labels.get(name, {}).items()):
            if label == "le":  # edges are numbers: in their order
                shown.append("le=" + "|".join(sorted(values, key=float)))
            else:
                closed = label not in OPEN_LABELS
                shown.append(f"{label}={'|'.join(sorted(values))}" if closed else label)
        out.append(f"{name} {kinds[name]} {{{', '.join(shown)}}} {helps[name]}")
    return out


if __name__ == "__main__":
    print("\n".join(describe(sys.stdin.read())))
