"""Causal GMA in its three equal forms: quadratic, recurrent, chunkwise (docs/MATH.md 5, gates: 11).

Shapes: B sequences, T tokens, H query heads, G memory heads (G divides H; query head h reads
memory head h // (H / G)), K slots, v = value width.

    score_q    [B, T, H, K]       scores of the queries; a number added to a row changes nothing
    resp_k     [B, T, G, K]       write responsibilities, flushed
    value      [B, T, G, v]
    log_decay  [B, T, G, 1 or K]  log of the forget gate, at most 0; None = no forgetting

All three write a token first and read it with its own query (j <= i). Slots keep their mass in
float64 and the mean of their values; gates change masses only, because they cancel in means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 64
_SLOT_GATE_CHUNK = 16  # per-slot gates build a [C, C, K] block a chunk
# A gate can age a mass without bound. Below this it counts as unwritten: no read can tell (the
# flush rule keeps what is written above 2^-100), and 1 / mass stays finite in float64.
_UNWRITTEN = 2.0**-500


@dataclass
class SlotState:
    """Slot masses [B, G, K] float64 and slot means [B, G, K, m]."""

    mass: Tensor
    memory: Tensor


def empty_slots(
    batch: int,
    memory_heads: int,
    components: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SlotState:
    """The state before the first token: all zero."""
    shape = (batch, memory_heads, components)
    return SlotState(
        torch.zeros(shape, dtype=torch.float64, device=device),
        torch.zeros(*shape, width, dtype=dtype, device=device),
    )


def log_mass(mass: Tensor, dtype: torch.dtype) -> Tensor:
    """log(mass) in `dtype`; -inf, with a zero gradient, where nothing is written."""
    used = mass > _UNWRITTEN
    log = torch.log(torch.where(used, mass, torch.ones_like(mass)))
    return log.masked_fill(~used, -math.inf).to(dtype)


def _share(part: Tensor, mass: Tensor) -> Tensor:
    """part / mass, and 0 where mass is 0."""
    used = mass > _UNWRITTEN
    return torch.where(used, part / torch.where(used, mass, torch.ones_like(mass)), 0.0)


def merge_slots(a: SlotState, b: SlotState) -> SlotState:
    """The state after the tokens of both (docs/MATH.md 5.4); slots that b did not write stay."""
    mass = a.mass + b.mass
    step = _share(b.mass, mass).to(a.memory.dtype).unsqueeze(-1)
    return SlotState(mass, a.memory + step * (b.memory - a.memory))


def write_token(
    state: SlotState, resp_k: Tensor, content: Tensor, log_decay: Tensor | None
) -> SlotState:
    """Writes one token (docs/MATH.md 5.2): s <- alpha s + r, m <- m + r/s (c - m).

    Args:
        state: slots of width m. resp_k: [B, G, K]. content: [B, G, m].
        log_decay: [B, G, 1 or K] or None.
    """
    resp = resp_k.double()
    kept = state.mass if log_decay is None else state.mass * torch.exp(log_decay.double())
    mass = kept + resp
    step = _share(resp, mass).to(state.memory.dtype).unsqueeze(-1)
    return SlotState(mass, state.memory + step * (content.unsqueeze(2) - state.memory))


def read_slots(state: SlotState, score_q: Tensor) -> Tensor:
    """Reads one token's queries (docs/MATH.md 6): softmax_k(score + log s) m.

    Args:
        score_q: [B, H, K].

    Returns:
        [B, H, m]; 0 where no slot is written.
    """
    groups = state.mass.shape[1]
    logits = score_q.unflatten(1, (groups, -1)) + log_mass(state.mass, score_q.dtype).unsqueeze(2)
    written = (state.mass > _UNWRITTEN).any(-1)[:, :, None, None]
    weight = torch.softmax(torch.where(written, logits, 0.0), dim=-1)
    return (torch.where(written, weight, 0.0) @ state.memory).flatten(1, 2)


def causal_recurrent(
    score_q: Tensor,
    resp_k: Tensor,
    value: Tensor,
    log_decay: Tensor | None = None,
    state: SlotState | None = None,
) -> tuple[Tensor, SlotState]:
    """One token after the other (MATH.md 5.2). Returns the output [B, T, H, v] and the state."""
    state = state or _empty_for(resp_k, value)
    out = []
    for t in range(score_q.shape[1]):
        decay = None if log_decay is None else log_decay[:, t]
        state = write_token(state, resp_k[:, t], value[:, t], decay)
        out.append(read_slots(state, score_q[:, t]))
    if not out:
        return score_q.new_zeros(*score_q.shape[:3], value.shape[-1]), state
    return torch.stack(out, dim=1), state


def causal_quadratic(
    score_q: Tensor, resp_k: Tensor, value: Tensor, log_decay: Tensor | None = None
) -> Tensor:
    """The O(T^2) reference (docs/MATH.md 5.1); meant for float64 and moderate scores.

    A_ij = sum_k q_ik exp(b_ik - b_jk) r_jk for j <= i, b the cumulative log gate.
    Returns the output [B, T, H, v].
    """
    batch, tokens, heads, _ = score_q.shape
    groups = resp_k.shape[2]
    query = torch.softmax(score_q, dim=-1).unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    resp, values = resp_k.transpose(1, 2), value.transpose(1, 2)  # [B, G, T, .]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=resp.device).tril()
    if log_decay is None:
        affinity = query @ resp.unsqueeze(2).transpose(-1, -2)
    else:
        b = torch.cumsum(log_decay.transpose(1, 2), dim=2)
        gap = (b.unsqueeze(3) - b.unsqueeze(2)).masked_fill(~causal.unsqueeze(-1), -math.inf)
        affinity = torch.einsum("bgjik,bgitk->bgjit", query, torch.exp(gap) * resp.unsqueeze(2))
    affinity = affinity * causal
    out = (affinity @ values.unsqueeze(2)) / affinity.sum(-1, keepdim=True)
    return out.permute(0, 3, 1, 2, 4).reshape(batch, tokens, heads, value.shape[-1])


@dataclass
class _Chunk:
    """Prefix quantities inside each chunk, without the state that enters it.

    mass [B, G, n, C, K] float64: inner part of the prefix masses, the token itself included.
    kept [B, G, n, C, 1 or K] float64: exp(b), what is left of the entering masses; None = all.
    pair: how strongly token j counts at token i: [.., C, C] for gates shared by all slots, or
    None where `gated` [B, G, n, C, C, K] holds exp(b_ik - b_jk) r_jk itself.
    tail [B, G, n, C, K]: responsibilities aged to the end of the chunk.
    """

    mass: Tensor
    kept: Tensor | None
    pair: Tensor | None
    gated: Tensor | None
    tail: Tensor


def _chunk_prefix(resp: Tensor, decay: Tensor | None) -> _Chunk:
    """resp [B, G, n, C, K], decay [B, G, n, C, 1 or K]; no exponent is ever above 0."""
    size, slots = resp.shape[-2:]
    causal = torch.ones(size, size, dtype=torch.bool, device=resp.device).tril()
    if decay is None:
        mass = torch.cumsum(resp.double(), dim=-2)
        return _Chunk(mass, None, causal.to(resp.dtype).view(1, 1, 1, size, size), None, resp)
    b = torch.cumsum(decay.double(), dim=-2)
    if decay.shape[-1] == 1 and slots != 1:
        gap = (b - b.transpose(-1, -2)).masked_fill(~causal, -math.inf)
        pair = torch.exp(gap)
        tail = resp.double() * pair[..., -1, :].unsqueeze(-1)
        return _Chunk(pair @ resp.double(), torch.exp(b), pair.to(resp.dtype), None, tail)
    gap = (b.unsqueeze(-2) - b.unsqueeze(-3)).to(resp.dtype)  # [.., i, j, K]
    gap = gap.masked_fill(~causal.unsqueeze(-1), -math.inf)
    gated = torch.exp(gap) * resp.unsqueeze(-3)
    return _Chunk(
        gated.sum(-2, dtype=torch.float64), torch.exp(b), None, gated, gated[..., -1, :, :]
    )


def _entry_states(
    chunk: _Chunk, values: Tensor, state: SlotState
) -> tuple[Tensor, Tensor, SlotState]:
    """Runs over the chunks. Returns entry masses [B, G, n, K], entry means [B, G, n, K, v] and
    the state after the last chunk."""
    added = chunk.mass[..., -1, :]
    # Shares of the chunk's own mass: a gate may shrink both beyond float32, never their ratio.
    share = _share(chunk.tail.double(), added.unsqueeze(-2)).to(values.dtype)
    means = share.transpose(-1, -2) @ values
    masses_in, means_in = [], []
    for n in range(values.shape[2]):
        masses_in.append(state.mass)
        means_in.append(state.memory)
        kept = state.mass if chunk.kept is None else state.mass * chunk.kept[:, :, n, -1]
        state = merge_slots(
            SlotState(kept, state.memory), SlotState(added[:, :, n], means[:, :, n])
        )
    return torch.stack(masses_in, 2), torch.stack(means_in, 2), state


def causal_chunkwise(
    score_q: Tensor,
    resp_k: Tensor,
    value: Tensor,
    log_decay: Tensor | None = None,
    state: SlotState | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, SlotState]:
    """Chunks of matrix products (docs/MATH.md 5.3), for training and prefill.

    With w = softmax_k(score + log S), token j has the weight sum_k w_ik exp(b_ik-b_jk) r_jk / S_ik
    in output i and an entering mean the weight w_ik exp(b_ik) s_k / S_ik: every factor is at most
    1 where it matters, and the weights of a row sum to 1 without a division.

    Returns the output [B, T, H, v] and the state after the last token.
    """
    batch, tokens, heads, _ = score_q.shape
    groups = resp_k.shape[2]
    state = state or _empty_for(resp_k, value)
    if tokens == 0:
        return score_q.new_zeros(batch, 0, heads, value.shape[-1]), state
    per_slot = log_decay is not None and log_decay.shape[-1] != 1
    size = min(chunk or (_SLOT_GATE_CHUNK if per_slot else _CHUNK), tokens)
    count = -(-tokens // size)

    def split(x: Tensor) -> Tensor:  # [B, T, G, m] -> [B, G, n, C, m]; padding writes nothing
        x = F.pad(x.transpose(1, 2), (0, 0, 0, count * size - tokens))
        return x.unflatten(2, (count, size))

    query = split(score_q).unflatten(1, (groups, heads // groups))  # [B, G, J, n, C, K]
    resp, values = split(resp_k), split(value)
    inner = _chunk_prefix(resp, None if log_decay is None else split(log_decay))
    mass_in, mean_in, state = _entry_states(inner, values, state)
    entering = mass_in.unsqueeze(-2)
    entering = entering if inner.kept is None else entering * inner.kept
    mass = entering + inner.mass  # S [B, G, n, C, K]
    log_weight = torch.log_softmax(query + log_mass(mass, query.dtype).unsqueeze(2), dim=-1)
    weight = torch.exp(log_weight)
    carried = weight * _share(entering, mass).to(query.dtype).unsqueeze(2)
    if inner.gated is None:
        # w / S <= 2^100 unless a gate has shrunk S below the flush threshold: the bound holds
        # it inside the range of the type, far from anything that can matter.
        limit = 100 * math.log(2) if query.dtype == torch.float32 else 700.0
        log_used = torch.log(torch.where(mass > _UNWRITTEN, mass, torch.ones_like(mass))).to(
            query.dtype
        )
        scaled = torch.exp((log_weight - log_used.unsqueeze(2)).clamp(max=limit))
        affinity = (scaled @ resp.unsqueeze(2).transpose(-1, -2)) * inner.pair.unsqueeze(2)
    else:
        floor = 2.0**-120 if query.dtype == torch.float32 else _UNWRITTEN  # keeps 1 / S finite
        part = inner.gated / mass.unsqueeze(-2).to(query.dtype).clamp(min=floor)
        affinity = torch.einsum("bgjnik,bgnitk->bgjnit", weight, part)
    out = affinity @ values.unsqueeze(2) + carried @ mean_in.unsqueeze(2)
    out = out.flatten(3, 4)[..., :tokens, :]
    return out.permute(0, 3, 1, 2, 4).reshape(batch, tokens, heads, value.shape[-1]), state


def _empty_for(resp_k: Tensor, value: Tensor) -> SlotState:
    batch, _, groups, slots = resp_k.shape
    return empty_slots(batch, groups, slots, value.shape[-1], value.dtype, value.device)
