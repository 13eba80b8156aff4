"""Experiment (b): the options of docs/MATH.md 11 one at a time, the presets, and K."""

from __future__ import annotations

import sys
from typing import Any

from gma_torch.config import PRESETS
from gma_torch.experiments.harness import Experiment
from gma_torch.experiments.language import (
    LanguageConfig,
    language_cells,
    language_figure,
    language_rows,
    run_language_cell,
)

_ONE_AT_A_TIME: dict[str, dict[str, Any]] = {
    "short_conv": {"short_conv": 4},
    "forget head": {"forget": "head"},
    "forget write": {"forget": "write"},
    "out_norm": {"out_norm": True},
    "out_gate": {"out_gate": True},
    "route_norm": {"route_norm": True},
    "read adapted": {"read": "adapted"},
    "window": {"window": 32},
    "var_param softplus": {"var_param": "softplus"},
}
_COMPONENTS = (16, 32, 64, 128)


def variants() -> dict[str, dict[str, Any]]:
    """Name -> mixer, options, components."""
    out = {"plain": {"mixer": "gma"}}
    for name, options in _ONE_AT_A_TIME.items():
        out[name] = {"mixer": "gma", "options": options}
    for name in ("from_scratch", "converted"):
        out[f"preset {name}"] = {"mixer": "gma", "options": PRESETS[name]}
    for count in _COMPONENTS:
        for name in ("plain", "from_scratch"):
            options = {"options": PRESETS[name], "components": count}
            out[f"{name}, K {count}"] = {"mixer": "gma", **options}
    return out


EXPERIMENT = Experiment(
    name="ladder",
    about="One option of GMA at a time, the presets, and K; equal parameters, tokens and seeds.",
    config=LanguageConfig,
    cells=lambda config: language_cells(config, variants()),
    run=run_language_cell,
    rows=language_rows,
    figure=language_figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
