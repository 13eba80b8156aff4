"""Rows and figures of `judge`: each test's figures beside the gate that the model has to pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gma_torch.experiments.harness import Result, by_variant

# What the default model is held to.
PERPLEXITY_GATES = {"wiki": 1.12, "books": 1.02, "chat": 1.03}
SHARE_GATES = {"recall": 0.9, "copy": 0.5}
ENDLESS_GATE = 0.97
_NEEDS = {"recall": "name or city, 12 each", "copy": "invented full name"}


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """The table of one test."""
    kind = results[0]["test"]
    if kind == "perplexity":
        return _perplexity(results)
    if kind == "endless":
        return _endless(results)
    return _questions(results, kind)


def _met(good: bool) -> str:
    return "met" if good else "not met"


def _perplexity(results: list[Result]) -> list[dict[str, Any]]:
    out = []
    for (text,), group in by_variant(results, "text").items():
        of = {r["model"]: r for r in group}
        factor = of["GMA"]["perplexity"] / of["teacher"]["perplexity"]
        out.append({
            "text": text, "tokens": of["GMA"]["tokens"], "state bytes": of["GMA"]["state_bytes"],
            "teacher": of["teacher"]["perplexity"], "GMA": of["GMA"]["perplexity"],
            "window": of["window"]["perplexity"], "window tokens": of["GMA"]["window"],
            "factor": round(factor, 4),
            "window's factor": round(of["window"]["perplexity"] / of["teacher"]["perplexity"], 4),
            "gate": PERPLEXITY_GATES[text], "": _met(factor <= PERPLEXITY_GATES[text]),
            **{f"factor at {at}": round(value / of["teacher"]["by_position"][at], 3)
               for at, value in of["GMA"]["by_position"].items()},
        })  # fmt: skip
    return out


def _hits(results: list[Result], model: str) -> tuple[int, int]:
    answers = [a for r in results if r["model"] == model for a in r["answers"]]
    return sum(a["right"] for a in answers), len(answers)


def _questions(results: list[Result], kind: str) -> list[dict[str, Any]]:
    teacher, count = _hits(results, "teacher")
    out = []
    for (model,), group in by_variant(results, "model").items():
        lengths = [a["tokens"] for r in group for a in r["answers"]]
        right, _ = _hits(results, model)
        row = {"asked for": _NEEDS[kind], "model": model, "prompts": count,
               "tokens before the answer": f"{min(lengths)} to {max(lengths)}", "right": right,
               "of the teacher's": round(right / teacher, 3) if teacher else None}  # fmt: skip
        if model == "GMA":
            row |= {"gate": SHARE_GATES[kind], "": _met(right >= SHARE_GATES[kind] * teacher)}
        out.append(row)
    return out


def _endless(results: list[Result]) -> list[dict[str, Any]]:
    """Per range, over all books: perplexities at the same positions, and their ratio."""
    out = []
    for at in results[0]["ranges"]:
        mean = {}
        for model in ("GMA", "window", "teacher"):
            parts = [r["ranges"][at] for r in results if r["model"] == model and at in r["ranges"]]
            if parts:
                tokens = sum(p["tokens"] for p in parts)
                mean[model] = (math.exp(sum(p["loss"] for p in parts) / tokens), tokens)
        ratio = mean["GMA"][0] / mean["window"][0]
        row = {"positions": at, "tokens": mean["GMA"][1], "GMA": mean["GMA"][0],
               "window": mean["window"][0], "window tokens": results[0]["window"],
               "ratio": round(ratio, 4), "gate": ENDLESS_GATE,
               "": _met(ratio < ENDLESS_GATE)}  # fmt: skip
        if "teacher" in mean:
            row |= {"teacher": mean["teacher"][0], "teacher's tokens": mean["teacher"][1]}
        out.append(row)
    return out


def figure(results: list[Result], path: Path) -> None:
    """Perplexity by position, or hits by distance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = _panels(results)
    drawn, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.8), squeeze=False)
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, points in curves.items():
            axis.plot(list(points), list(points.values()), marker="o", markersize=3, label=name)
        axis.set_title(title, fontsize=9)
        axis.tick_params(axis="x", labelrotation=30, labelsize=7)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    axes[0][0].set_ylabel("right answers" if "answers" in results[0] else "perplexity")
    drawn.tight_layout()
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def _panels(results: list[Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Title -> model -> position -> value."""
    kind = results[0]["test"]
    out: dict[str, dict[str, dict[str, float]]] = {}
    if kind == "perplexity":
        for r in results:
            out.setdefault(r["text"], {})[r["model"]] = r["by_position"]
    elif kind == "endless":
        for r in results:
            out.setdefault(f"session from book {r['book'] + 1}", {})[r["model"]] = {
                at: math.exp(part["loss"] / part["tokens"]) for at, part in r["ranges"].items()
            }
    else:
        for r in results:
            curve = out.setdefault(f"{kind}, by tokens before the answer", {}).setdefault(
                r["model"], {}
            )
            for answer in r["answers"]:
                low = 200 * (answer["tokens"] // 200)
                key = f"{low}-{low + 200}"
                curve[key] = curve.get(key, 0) + answer["right"]
    return out
