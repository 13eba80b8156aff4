"""The loss curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def draw_curve(history: list[dict[str, float]], tokens_per_step: int, path: Path) -> None:
    """Draws training loss (each step, and a running mean) and validation loss over tokens."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    tokens = [entry["step"] * tokens_per_step for entry in history]
    losses = [entry["train_loss"] for entry in history]
    axes.plot(tokens, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(tokens, _running_mean(losses), color="tab:blue", label="training")
    measured = [
        (t, e["valid_loss"]) for t, e in zip(tokens, history, strict=True) if "valid_loss" in e
    ]
    if measured:
        axes.plot(*zip(*measured, strict=True), "o-", color="tab:orange", label="validation")
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _running_mean(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start."""
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(total / weight)
    return out
