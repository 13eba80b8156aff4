"""Experiment (a): GMA and every baseline as language models of equal size and budget."""

from __future__ import annotations

import sys

from gma_torch.config import PRESETS
from gma_torch.experiments.harness import Experiment
from gma_torch.experiments.language import (
    LanguageConfig,
    language_cells,
    language_figure,
    language_rows,
    run_language_cell,
)

_WINDOW = 64
VARIANTS = {
    "GMA plain": {"mixer": "gma"},
    "GMA from_scratch": {"mixer": "gma", "options": PRESETS["from_scratch"]},
    f"GMA from_scratch, window {_WINDOW}": {
        "mixer": "gma",
        "options": {**PRESETS["from_scratch"], "window": _WINDOW},
    },
    "softmax, RoPE": {"mixer": "softmax"},
    f"window {_WINDOW}": {"mixer": "window", "options": {"window": _WINDOW}},
    "linear, ELU": {"mixer": "linear_elu"},
    "FAVOR+": {"mixer": "favor"},
    "SSD": {"mixer": "ssd"},
}

EXPERIMENT = Experiment(
    name="lm",
    about="Language modelling: equal parameters, tokens and seeds; loss in nats by position.",
    config=LanguageConfig,
    cells=lambda config: language_cells(config, VARIANTS),
    run=run_language_cell,
    rows=language_rows,
    figure=language_figure,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
