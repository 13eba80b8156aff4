"""Where the bytes of the windows pay: the damage of each layer's window, and the best division.

The damage of layer l with window w is the part of KL(teacher || student) that its error causes,
to second order and position by position: 1/2 E sum_t (g_t . d_t)^2 / T, where d_t is the error of
the attention output (slots and window against full attention, on the teacher's own heads) and g_t
the gradient of the log-likelihood of tokens drawn from the teacher. One backward pass a sequence
serves all layers and windows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gma_torch.convert.mixer import TransferMixer
from gma_torch.convert.transfer import grouped, late_read
from gma_torch.llama import Heads, Llama

_PIECE = 128


def _probed(teacher: Llama, tokens: Tensor, gen: torch.Generator) -> tuple[list[Heads], list]:
    """Every layer's heads, and its output with the gradient of drawn tokens' log-likelihood."""
    kept: list[Heads] = []
    outputs: list[Tensor] = []

    def attend(layer: int, heads: Heads) -> Tensor:
        out = teacher.attention(layer, heads)
        if layer == 0:
            out = out.detach().requires_grad_()
        out.retain_grad()
        kept.append(Heads(*(getattr(heads, n).detach() for n in heads.__dataclass_fields__)))
        outputs.append(out)
        return out

    with torch.enable_grad():
        hidden = teacher.hidden(tokens, attend)
        leaf = hidden.detach().requires_grad_()
        for begin in range(0, tokens.shape[1], _PIECE):
            logits = teacher.logits(leaf[:, begin : begin + _PIECE])[0]
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=gen)[:, 0]
            torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        hidden.backward(leaf.grad)
    return kept, outputs


@torch.no_grad()
def damages(
    teacher: Llama, mixers: list[TransferMixer], tokens: Tensor, choices: list[int], seed: int
) -> Tensor:
    """The damage in nats a token [layers, len(choices)] on one sequence [1, T]."""
    gen = torch.Generator().manual_seed(seed)
    kept, outputs = _probed(teacher, tokens, gen)
    length = tokens.shape[1]
    table = torch.zeros(len(mixers), len(choices))
    for layer, (mixer, heads, out) in enumerate(zip(mixers, kept, outputs, strict=True)):
        q, k, k_rot, value = grouped(heads)
        for column, window in enumerate(choices):
            if window >= length:
                continue  # the window covers all: no error
            late = late_read(mixer, q, k, k_rot, value, window)
            gap = late.permute(0, 3, 1, 2, 4).flatten(2, 3) - out.detach()[:, window:]
            along = (gap * out.grad[:, window:]).sum((-1, -2))
            table[layer, column] = 0.5 * along.pow(2).sum() / length
    return table


def divide(table: Tensor, choices: list[int], rows: int) -> list[int]:
    """The windows, one of `choices` a layer, of at most `rows` tokens together, of least damage.

    Exact, by dynamic programming over rows in units of the choices' greatest common divisor.

    Args:
        table: [layers, len(choices)] damages. ValueError if not even the smallest fit.
    """
    unit = math.gcd(*choices)
    units = rows // unit
    if len(table) * (min(choices) // unit) > units:
        raise ValueError(f"{rows} rows are too few for {len(table)} layers of {min(choices)}")
    best = torch.zeros(units + 1)
    picks = []
    for damage in table:
        options = torch.full((len(choices), units + 1), torch.inf)
        for column, window in enumerate(choices):
            size = window // unit
            if size <= units:
                options[column, size:] = best[: units + 1 - size] + damage[column]
        best, pick = options.min(0)
        picks.append(pick)
    out, left = [], int(best.argmin())
    for pick in reversed(picks):
        window = choices[int(pick[left])]
        out.append(window)
        left -= window // unit
    return out[::-1]
