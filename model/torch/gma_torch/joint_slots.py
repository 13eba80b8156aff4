"""The slot half of the joint read, chunkwise (MATH.md 5.3, 11.1): write a token, read with a query.

Shapes: B sequences, n chunks of C tokens, G memory heads, J = H / G query heads for each, K slots,
v = head width. Everything heavy is a matrix product over the chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gma_torch.causal import SlotState

# exp() of at most this much keeps the factored gates far inside float32 (docs/MATH.md 11).
_MAX_CHUNK_DECAY = 60.0


@dataclass
class _Gates:
    """Forgetting inside the chunks, as factors of matrix products.

    The weight of token j in slot k at token i of its chunk is pair_ij * age_ik * resp_jk.

    Attributes:
        pair: [C, C] ones for j <= i; with one gate a head [B, G, n, C, C] exp(b_i - b_j).
        resp: [B, G, n, C, K]; with a gate per slot, times exp(b_ref - b_j).
        age: exp(b_i - b_ref) [B, G, n, C, K], with a gate per slot only. b_ref is the gate of the
            chunk's first token: it lies in the past of every other token.
        kept: [B, G, n, C, 1 or K] exp(b_i), what is left of the entry state; None: all of it.
        to_end: [B, G, n, C, K] responsibilities as they stand at the end of the chunk.
    """

    pair: Tensor
    resp: Tensor
    age: Tensor | None
    kept: Tensor | None
    to_end: Tensor

    def aged(self, x: Tensor) -> Tensor:
        """x [B, G, (J,) n, C, K] times age."""
        if self.age is None:
            return x
        return x * (self.age if x.dim() == self.age.dim() else self.age.unsqueeze(2))


def _chunk_gates(decay: Tensor | None, resp: Tensor) -> _Gates:
    """decay [B, G, n, C, 1 or K] or None, resp [B, G, n, C, K]."""
    chunk = resp.shape[-2]
    lower = torch.ones(chunk, chunk, dtype=resp.dtype, device=resp.device).tril()
    if decay is None:
        return _Gates(lower, resp, None, None, resp)
    b = torch.cumsum(decay, dim=-2)  # inclusive
    kept, to_end = torch.exp(b), resp * torch.exp(b[..., -1:, :] - b)
    if decay.shape[-1] == 1:
        pair = torch.exp((b - b.transpose(-1, -2)).masked_fill(lower == 0, -math.inf))
        return _Gates(pair, resp, None, kept, to_end)
    b_ref = b[..., :1, :]
    return _Gates(lower, resp * torch.exp(b_ref - b), torch.exp(b - b_ref), kept, to_end)


def _chunk_states(
    mass_add: Tensor, sums: Tensor, keep: Tensor | None, state: SlotState
) -> tuple[Tensor, Tensor, SlotState]:
    """Runs over the chunks (docs/MATH.md 5.4).

    Args:
        mass_add: [B, G, n, K] what each chunk adds to the masses, gated to its end.
        sums: [B, G, n, K, m] what it adds to mass times mean.
        keep: [B, G, n, 1 or K] the gate of a whole chunk, or None.

    Returns:
        Entry masses [B, G, n, K] and entry means [B, G, n, K, m] in the type of `sums`, and the
        state after the last chunk (masses in float64).
    """
    mass, mean = state.mass, state.memory.to(sums.dtype)
    masses, means = [], []
    for n in range(sums.shape[2]):
        masses.append(mass.to(sums.dtype))
        means.append(mean)
        kept = mass if keep is None else mass * keep[:, :, n].double()
        mass = kept + mass_add[:, :, n].double()
        written = mass > 0
        inverse = torch.where(written, 1.0 / torch.where(written, mass, 1.0), 0.0)
        old = torch.where(written, kept * inverse, torch.ones_like(mass)).to(sums.dtype)
        mean = old.unsqueeze(-1) * mean + inverse.to(sums.dtype).unsqueeze(-1) * sums[:, :, n]
    return torch.stack(masses, 2), torch.stack(means, 2), SlotState(mass, mean)


def slot_read(
    q: Tensor,
    k: Tensor,
    value: Tensor,
    resp: Tensor,
    decay: Tensor | None,
    state: SlotState,
    *,
    scale: Tensor | None,
    bias: Tensor,
    log_resp_q: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, SlotState]:
    """Writes token i into the slots, then reads them with query i: chunkwise (MATH.md 5.3, 11.1).

    Args:
        q: [B, G, J, T, v] queries, each already beside the token written just before it.
        k, value: [B, G, T, v] the tokens to write, in order.
        resp: [B, G, T, K] their responsibilities, flushed.
        decay: [B, G, T, 1 or K] their log gates, or None.
        scale: [G, J] alpha_h for the adapted read; None for the static read.
        bias: [G, J, K].
        log_resp_q: [B, G, J, T, K] for the static read.
        chunk: tokens a chunk; |log gate| summed over a chunk must stay below 60 if it is per slot.

    Returns:
        Log-sum-exp of the slot logits [B, G, J, T] (-inf where nothing is written yet), the output
        [B, G, J, T, v], and the slots after the last token.
    """
    tokens, width = q.shape[-2], q.shape[-1]
    adapted = scale is not None
    chunk = max(1, min(chunk, tokens))
    blocks = -(-tokens // chunk)
    tail = blocks * chunk - tokens

    def split(x: Tensor) -> Tensor:  # [..., T, m] -> [..., n, C, m], padding writes nothing
        return F.pad(x, (0, 0, 0, tail)).unflatten(-2, (blocks, chunk))

    q, k, value = split(q), split(k), split(value)
    gates = _chunk_gates(None if decay is None else split(decay), split(resp))
    inner_mass = gates.aged(gates.pair @ gates.resp)  # [B, G, n, C, K]
    content = torch.cat([value, k], dim=-1) if adapted else value
    entry, means, end = _chunk_states(
        inner_mass[..., -1, :],
        gates.to_end.transpose(-1, -2) @ content,
        None if gates.kept is None else gates.kept[..., -1, :],
        state,
    )
    entry = entry.unsqueeze(-2) if gates.kept is None else entry.unsqueeze(-2) * gates.kept
    masses = _Masses(entry.unsqueeze(2), (entry + inner_mass).unsqueeze(2))
    means = means.unsqueeze(2)
    if adapted:
        address = _addresses(q, k, gates, masses, means[..., width:])
        slot_logit = (scale / math.sqrt(width)).view(*scale.shape, 1, 1, 1) * address
    else:
        slot_logit = split(log_resp_q)
    slot_logit = slot_logit + bias.unsqueeze(-2).unsqueeze(-2)
    lse, out = _read_means(slot_logit, value, gates, masses, means[..., :width])
    return lse.flatten(-2)[..., :tokens], out.flatten(-3, -2)[..., :tokens, :], end


class _Masses:
    """Masses as the queries of the chunks see them.

    Args:
        entry: [B, G, 1, n, C or 1, K] the chunk's entry masses, gated to each token.
        total: [B, G, 1, n, C, K] with what the chunk wrote up to and with each token.
    """

    def __init__(self, entry: Tensor, total: Tensor) -> None:
        self.entry = entry
        self.used = total > 0
        self.total = torch.where(self.used, total, torch.ones_like(total))


def _across(x: Tensor) -> Tensor:
    """Adds the axis of the query heads to a per-memory-head tensor; [C, C] is for all as it is."""
    return x.unsqueeze(2) if x.dim() > 2 else x


def _addresses(q: Tensor, k: Tensor, gates: _Gates, masses: _Masses, means: Tensor) -> Tensor:
    """<q_i, c_k(i)> by linear attention with r as values: [B, G, J, n, C, K].

    q [B, G, J, n, C, v]; k [B, G, n, C, v]; means [B, G, 1, n, K, v] of the keys at entry.
    """
    inner = (q @ _across(k).transpose(-1, -2)) * _across(gates.pair)
    inner = gates.aged(inner @ _across(gates.resp))
    return (inner + (q @ means.transpose(-1, -2)) * masses.entry) / masses.total


def _read_means(
    slot_logit: Tensor, value: Tensor, gates: _Gates, masses: _Masses, means: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax over the slots and the mix of their means (docs/MATH.md 5.3).

    slot_logit [B, G, J, n, C, K] without log s; value [B, G, n, C, v]; means [B, G, 1, n, K, v].

    Returns:
        Log-sum-exp [B, G, J, n, C] and output [B, G, J, n, C, v].
    """
    logits = (slot_logit + torch.log(masses.total)).masked_fill(~masses.used, -math.inf)
    top = logits.detach().amax(dim=-1, keepdim=True)
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    # p / S, formed without a division by a small mass.
    ratio = torch.exp(slot_logit - top).masked_fill(~masses.used, 0.0)
    total = (ratio * masses.total).sum(-1)
    mix = (gates.aged(ratio) @ _across(gates.resp).transpose(-1, -2)) * _across(gates.pair)
    numerator = mix @ _across(value) + (ratio * masses.entry) @ means
    empty = total == 0
    total = torch.where(empty, torch.ones_like(total), total)
    lse = (torch.log(total) + top.squeeze(-1)).masked_fill(empty, -math.inf)
    return lse, numerator / total.unsqueeze(-1)


def slot_chunk(decay: Tensor | None, chunk: int, max_decay: float | None) -> int:
    """The largest halving of `chunk` in which the factored gates stay inside float32.

    `max_decay` bounds |log gate| of one token (beta, if gates are write-tied). Without it the bound
    is taken from the data, and then the rounding of early outputs may depend on later tokens.
    """
    if decay is None or decay.shape[-1] == 1 or decay.numel() == 0:
        return chunk
    bound = float(-decay.detach().min()) if max_decay is None else max_decay
    while chunk > 1 and bound * chunk >= _MAX_CHUNK_DECAY:
        chunk //= 2
    return chunk
