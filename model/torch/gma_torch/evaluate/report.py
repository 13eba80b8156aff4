"""Tables and pictures of held-out loss by position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from gma_torch.evaluate.scoring import Scorer
from gma_torch.evaluate.texts import Window

_EDGES = (0, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


@dataclass
class Result:
    """One model on one text.

    Attributes:
        perplexity, bits_per_byte, tokens: over everything that counts.
        buckets: "first-last" position -> perplexity of the tokens there.
        window_losses: mean loss of each window, nats.
    """

    text: str
    model: str
    perplexity: float
    bits_per_byte: float
    tokens: int
    buckets: dict[str, float]
    window_losses: list[float]


def evaluate(text: str, model: str, windows: list[Window], scorer: Scorer) -> Result:
    """Scores all windows of one text."""
    losses, positions, sizes, means = [], [], [], []
    for window in tqdm(windows, desc=f"{text}: {model}", leave=False):
        loss = scorer(window.tokens).double()
        losses.append(loss[window.counted])
        positions.append(torch.arange(1, len(window.tokens))[window.counted])
        sizes.append(window.bytes[window.counted])
        means.append(float(losses[-1].mean()))
    loss, position = torch.cat(losses), torch.cat(positions)
    buckets = {}
    for low, high in zip(_EDGES, _EDGES[1:], strict=False):
        inside = (position >= low) & (position < high)
        if int(inside.sum()):
            buckets[f"{low}-{high}"] = math.exp(float(loss[inside].mean()))
    return Result(
        text, model, math.exp(float(loss.mean())),
        float(loss.sum()) / math.log(2) / max(1, int(torch.cat(sizes).sum())),
        len(loss), buckets, means,
    )  # fmt: skip


def table(results: list[Result]) -> str:
    """All results as a Markdown table, positions in columns."""
    names = sorted({b for r in results for b in r.buckets}, key=lambda b: int(b.split("-")[0]))
    lines = [
        "| text | model | tokens | perplexity | bits per byte | " + " | ".join(names) + " |",
        "|---|---|---|---|---|" + "---|" * len(names),
    ]
    for r in results:
        cells = [f"{r.buckets[b]:.2f}" if b in r.buckets else "" for b in names]
        lines.append(
            f"| {r.text} | {r.model} | {r.tokens} | {r.perplexity:.2f} | {r.bits_per_byte:.4f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


def picture(results: list[Result], path: Path) -> None:
    """Perplexity by position: one panel a text, one line a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    texts = list(dict.fromkeys(r.text for r in results))
    figure, axes = plt.subplots(1, len(texts), figsize=(4.2 * len(texts), 3.6), squeeze=False)
    for axis, text in zip(axes[0], texts, strict=True):
        for r in (r for r in results if r.text == text):
            axis.plot(list(r.buckets), list(r.buckets.values()), marker="o", label=r.model)
        axis.set_title(text)
        axis.set_xlabel("position in the text (tokens)")
        axis.tick_params(axis="x", labelrotation=45)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("perplexity")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
