"""One endless text through a model, piece by piece: GMA, a sliding window with sinks, the teacher.

A session is fed tokens and gives the logits that follow each of them; what it keeps is a plain
value that can be stored and put back. Shapes: n new tokens, H query heads, G key-value heads,
J = H / G, v = head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gma_torch.decoder import DecoderState, GmaDecoder
from gma_torch.llama import CachedAttention, Heads, Llama
from gma_torch.mixer import MixerState
from gma_torch.rope import rope_table, turn


class Session(Protocol):
    """A text being read. `kept` is everything a continuation needs."""

    kept: Any

    def feed(self, tokens: Tensor) -> Tensor:
        """Tokens [n] -> logits [n, vocab] of what follows each."""
        ...


class GmaSession:
    """A GMA model; `kept` is its state."""

    def __init__(self, model: GmaDecoder) -> None:
        self._model = model
        self.kept = model.initial_state(1)

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """As `Session.feed`; one token by the recurrence."""
        if len(tokens) == 1:
            logits, self.kept = self._model.step(tokens, self.kept)
            return logits
        logits, self.kept = self._model.prefill(tokens.unsqueeze(0), self.kept)
        return logits[0]


class TeacherSession:
    """Full softmax attention; `kept` is the growing cache."""

    def __init__(self, model: Llama) -> None:
        self._model = model
        self.kept = CachedAttention()

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """As `Session.feed`."""
        hidden = self._model.hidden(tokens.unsqueeze(0), self.kept, self.kept.tokens)
        return self._model.logits(hidden[0])


@dataclass
class _Cache:
    """Keys and values of one layer: [1, G, tokens, v]; sinks are never dropped."""

    sink_k: Tensor
    sink_v: Tensor
    ring_k: Tensor
    ring_v: Tensor


class WindowSession:
    """The newest `window` tokens and the first `sinks`, at positions inside the cache.

    The sinks stay as far from a query as they are when the window has just filled (arXiv
    2309.17453): far into a text, their true distance would be one the model was never trained on.
    """

    def __init__(self, model: Llama, window: int, sinks: int) -> None:
        self._model, self._window, self._sinks = model, window, sinks
        self.kept: dict[str, Any] = {"position": 0, "layers": {}}

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """As `Session.feed`."""
        at = self.kept["position"]
        layers = dict(self.kept["layers"])

        def attend(layer: int, heads: Heads) -> Tensor:
            out, layers[layer] = self._read(heads, layers.get(layer), at)
            return out

        hidden = self._model.hidden(tokens.unsqueeze(0), attend, at)
        self.kept = {"position": at + len(tokens), "layers": layers}
        return self._model.logits(hidden[0])

    def _near_query(self, q_rot: Tensor, at: int) -> Tensor:
        """Queries as the sinks see them, [1, n, H, v]: as if the window were just full."""
        config, tokens = self._model.config, q_rot.shape[1]
        last = self._window + self._sinks - 1
        cos, sin = rope_table(at, tokens, config.head_dim, config.rope_theta)
        table = rope_table(0, last + 1, config.head_dim, config.rope_theta)
        row = torch.arange(at, at + tokens).clamp_max(last)
        return turn(turn(q_rot, cos, -sin), *(x[row] for x in table))

    def _read(self, heads: Heads, old: _Cache | None, at: int) -> tuple[Tensor, _Cache]:
        k, value = heads.k_rot.transpose(1, 2), heads.value.transpose(1, 2)
        groups, tokens = k.shape[1], k.shape[2]
        if old is None:
            old = _Cache(*(k[:, :, :0] for _ in range(4)))
        sink_k, sink_v = old.sink_k, old.sink_v
        if (missing := self._sinks - sink_k.shape[2]) > 0:
            sink_k = torch.cat([sink_k, k[:, :, :missing]], 2)
            sink_v = torch.cat([sink_v, value[:, :, :missing]], 2)
        ring = old.ring_k.shape[2]
        k, value = torch.cat([old.ring_k, k], 2), torch.cat([old.ring_v, value], 2)

        def grouped(q: Tensor) -> Tensor:  # [1, n, H, v] -> [1, G, J, n, v]
            return q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)

        row = torch.arange(at, at + tokens).unsqueeze(1)
        col = torch.arange(at - ring, at + tokens)
        near = (col <= row) & (col > row - self._window) & (col >= self._sinks)
        far = torch.arange(sink_k.shape[2]) <= row
        logits = torch.cat(
            [
                (grouped(self._near_query(heads.q_rot, at)) @ sink_k.unsqueeze(2).mT).masked_fill(
                    ~far, -math.inf
                ),
                (grouped(heads.q_rot) @ k.unsqueeze(2).mT).masked_fill(~near, -math.inf),
            ],
            -1,
        ) / math.sqrt(k.shape[-1])
        out = logits.softmax(-1) @ torch.cat([sink_v, value], 2).unsqueeze(2)
        keep = min(self._window - 1, k.shape[2])
        start = k.shape[2] - keep
        cache = _Cache(sink_k, sink_v, k[:, :, start:].clone(), value[:, :, start:].clone())
        return out.permute(0, 3, 1, 2, 4).flatten(2, 3), cache


# What `kept` of a session is made of, beside tensors and plain values: all that a file of it may
# hold.
KEPT_TYPES = (DecoderState, MixerState, CachedAttention, _Cache)


def greedy_answer(session: Session, ids: list[int], end: int, most: int) -> list[int]:
    """The tokens that follow the prompt greedily, until `end` or `most` of them."""
    out: list[int] = []
    logits = session.feed(torch.tensor(ids))[-1]
    while len(out) < most and (token := int(logits.argmax())) != end:
        out.append(token)
        if len(out) < most:
            logits = session.feed(torch.tensor([token]))[-1]
    return out
