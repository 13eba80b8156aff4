"""The joint read: a window of recent tokens and the memory slots in one softmax (GMA.md 11.1).

Shapes: B sequences, T new tokens, H query heads, G memory heads (G divides H; query head h reads
memory head h // (H / G)), K slots, v = head width. Keys and queries are already rotated.

A query at position t sees the `window` newest tokens exactly and everything older through the
slots, into which token t - window has just been written:

    e_j = <q_t, k_j> / sqrt(v)                                        for the window
    u_k = log r_k(xq_t)              + log s_k + b_hk                 "static" read
    u_k = alpha_h <q_t, c_k>/sqrt(v) + log s_k + b_hk                 "adapted" read
    o_t = softmax over all e_j and u_k together, applied to v_j and m_k

A forget gate travels with its token and acts when that token is written. `joint_chunkwise` is the
form for training and prefill (matrix products over chunks); `joint_recurrent` takes one token after
the other and is its oracle. Both continue from a `JointState` and return the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

# Responsibilities below this are exactly 0 on the write side (GMA.md 2.4).
FLUSH = 2.0**-100

# exp() of at most this much keeps the factored gates far inside float32 (GMA.md 11).
_MAX_CHUNK_DECAY = 60.0


@dataclass
class JointState:
    """What a joint layer carries from one call to the next.

    Attributes:
        mass: [B, G, K] float64, slot masses.
        memory: [B, G, K, v], slot means of the values; [B, G, K, 2v] for the adapted read, whose
            second half is the mean of the rotated keys.
        ring_k, ring_v: [B, n, G, v], the n <= window newest keys and values, oldest first.
        ring_r: [B, n, G, K], their write responsibilities.
        ring_decay: [B, n, G, 1 or K] their log gates, or None without forgetting.
    """

    mass: Tensor
    memory: Tensor
    ring_k: Tensor
    ring_v: Tensor
    ring_r: Tensor
    ring_decay: Tensor | None = None


@dataclass
class SlotState:
    """Masses [B, G, K] float64 and means [B, G, K, m] of the slots of one layer."""

    mass: Tensor
    memory: Tensor


def empty_state(
    batch: int,
    memory_heads: int,
    components: int,
    head_dim: int,
    *,
    adapted: bool,
    decay_width: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> JointState:
    """The state before the first token; decay_width is 0 (no gate), 1 or K."""

    def zeros(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.zeros(*shape, dtype=kind, device=device)

    width = 2 * head_dim if adapted else head_dim
    return JointState(
        mass=zeros(batch, memory_heads, components, kind=torch.float64),
        memory=zeros(batch, memory_heads, components, width),
        ring_k=zeros(batch, 0, memory_heads, head_dim),
        ring_v=zeros(batch, 0, memory_heads, head_dim),
        ring_r=zeros(batch, 0, memory_heads, components),
        ring_decay=zeros(batch, 0, memory_heads, decay_width) if decay_width else None,
    )


def flush(resp: Tensor) -> Tensor:
    """Sets responsibilities below 2^-100 to exactly 0."""
    return torch.where(resp < FLUSH, torch.zeros_like(resp), resp)


def merge_reads(lse_a: Tensor, out_a: Tensor, lse_b: Tensor, out_b: Tensor) -> Tensor:
    """One softmax out of two: lse [...], out [..., v]; an empty side has lse = -inf."""
    top = torch.maximum(lse_a, lse_b).detach()
    weight_a = torch.exp(lse_a - top).unsqueeze(-1)
    weight_b = torch.exp(lse_b - top).unsqueeze(-1)
    return (weight_a * out_a + weight_b * out_b) / (weight_a + weight_b)


def window_read(
    q: Tensor, k: Tensor, value: Tensor, window: int, *, ring: int = 0, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Exact attention over the `window` newest tokens, in banded blocks.

    Args:
        q: [B, G, J, T, v] queries of the T new tokens; J = H / G query heads read one memory head.
        k, value: [B, G, ring + T, v]; the first `ring` <= window rows are older tokens.

    Returns:
        The log-sum-exp of the logits [B, G, J, T] and the output [B, G, J, T, v].
    """
    tokens, width = q.shape[-2], q.shape[-1]
    chunk = max(1, min(chunk, tokens))
    blocks = -(-tokens // chunk)
    tail = blocks * chunk - tokens
    reach = window - 1  # keys before a query that it may still see
    front = max(0, reach - ring)
    skip = max(0, ring - reach)
    band = chunk + reach

    def banded(x: Tensor) -> Tensor:  # [B, G, N, v] -> [B, G, blocks, band, v]
        padded = F.pad(x[..., skip:, :], (0, 0, front, tail))
        return padded.unfold(-2, band, chunk).transpose(-1, -2)

    q_blocks = F.pad(q, (0, 0, 0, tail)).unflatten(-2, (blocks, chunk))
    logits = q_blocks @ banded(k).unsqueeze(2).transpose(-1, -2) / math.sqrt(width)
    row = torch.arange(chunk, device=q.device).unsqueeze(1)
    col = torch.arange(band, device=q.device).unsqueeze(0)
    inside = (col >= row) & (col <= row + reach)  # [chunk, band]
    start = torch.arange(blocks, device=q.device).view(-1, 1, 1) * chunk
    visible = inside & (start + col >= front)  # the front padding is no token
    logits = logits.masked_fill(~visible, -math.inf)
    lse = torch.logsumexp(logits, dim=-1)
    out = torch.exp(logits - lse.unsqueeze(-1)) @ banded(value).unsqueeze(2)
    return lse.flatten(-2)[..., :tokens], out.flatten(-3, -2)[..., :tokens, :]


def _gates(decay: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Cumulative log gates of each chunk.

    Args:
        decay: [..., C, 1 or K] log gates.

    Returns:
        (b, b_ref): b [..., C, 1 or K] cumulative, inclusive; b_ref [..., 1, .] the gate of the
        first token, the reference of the factored form: it lies in the past of every other token.
    """
    if decay is None:
        return None
    b = torch.cumsum(decay, dim=-2)
    return b, b[..., :1, :]


def _chunk_states(
    mass_add: Tensor, sums: Tensor, keep: Tensor | None, state: SlotState
) -> tuple[Tensor, Tensor, SlotState]:
    """Runs over the chunks (GMA.md 5.4).

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
    """Writes token i into the slots, then reads them with query i: chunkwise (GMA.md 5.3, 11.1).

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

    q, k, value, resp = split(q), split(k), split(value), split(resp)
    gates = _gates(None if decay is None else split(decay))
    lower = torch.ones(chunk, chunk, dtype=q.dtype, device=q.device).tril()
    scalar_gate = gates is not None and gates[0].shape[-1] == 1
    resp_in, age, kept = resp, None, None
    if gates is not None:
        b, b_ref = gates
        kept = torch.exp(b)
        if scalar_gate:  # exp(b_i - b_j) is one matrix for all slots
            gap = (b - b.transpose(-1, -2)).masked_fill(lower == 0, -math.inf)
            lower = torch.exp(gap)
        else:  # exp(b_i - b_ref) exp(b_ref - b_j)
            age = torch.exp(b - b_ref)
            resp_in = resp * torch.exp(b_ref - b)
    inner_mass = lower @ resp_in  # [B, G, n, C, K]
    if age is not None:
        inner_mass = inner_mass * age
    tail_weight = resp if gates is None else resp * torch.exp(b[..., -1:, :] - b)
    content = torch.cat([value, k], dim=-1) if adapted else value
    masses, means, end = _chunk_states(
        inner_mass[..., -1, :],
        tail_weight.transpose(-1, -2) @ content,
        None if kept is None else kept[..., -1, :],
        state,
    )
    entry_mass = masses.unsqueeze(-2) if kept is None else masses.unsqueeze(-2) * kept
    mass = entry_mass + inner_mass  # S: [B, G, n, C, K]
    used = mass > 0
    safe_mass = torch.where(used, mass, torch.ones_like(mass))
    lower, resp_in, mass_x, used_x, entry_x = (
        x.unsqueeze(2) if x.dim() > 2 else x for x in (lower, resp_in, safe_mass, used, entry_mass)
    )
    age = None if age is None else age.unsqueeze(2)
    values, means = value.unsqueeze(2), means.unsqueeze(2)
    if adapted:
        inner = ((q @ k.unsqueeze(2).transpose(-1, -2)) * lower) @ resp_in
        inner = inner if age is None else inner * age
        address = inner + (q @ means[..., width:].transpose(-1, -2)) * entry_x
        alpha = (scale / math.sqrt(width)).view(*scale.shape, 1, 1, 1)
        slot_logit = alpha * (address / mass_x)
    else:
        slot_logit = split(log_resp_q)
    slot_logit = slot_logit + bias.unsqueeze(-2).unsqueeze(-2)
    logits = (slot_logit + torch.log(mass_x)).masked_fill(~used_x, -math.inf)
    top = logits.detach().amax(dim=-1, keepdim=True)
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    # p / S, formed without a division by a small mass.
    ratio = torch.exp(slot_logit - top).masked_fill(~used_x, 0.0)
    total = (ratio * mass_x).sum(-1)
    inner_query = ratio if age is None else ratio * age
    mix = (inner_query @ resp_in.transpose(-1, -2)) * lower
    numerator = mix @ values + (ratio * entry_x) @ means[..., :width]
    empty = total == 0
    total = torch.where(empty, torch.ones_like(total), total)
    out = numerator / total.unsqueeze(-1)
    lse = (torch.log(total) + top.squeeze(-1)).masked_fill(empty, -math.inf)
    return lse.flatten(-2)[..., :tokens], out.flatten(-3, -2)[..., :tokens, :], end


def _slot_chunk(decay: Tensor | None, chunk: int, max_decay: float | None) -> int:
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


def _by_group(x: Tensor, groups: int) -> Tensor:
    """[B, T, H, m] -> [B, G, H/G, T, m]."""
    return x.unflatten(2, (groups, x.shape[2] // groups)).permute(0, 2, 3, 1, 4)


def _join(ring: Tensor | None, new: Tensor | None) -> Tensor | None:
    """[B, n, G, m] and [B, T, G, m] -> [B, n + T, G, m]; None stays None."""
    if new is None:
        return None
    return new if ring is None else torch.cat([ring.to(new.dtype), new], dim=1)


def joint_chunkwise(
    q_rot: Tensor,
    k_rot: Tensor,
    value: Tensor,
    resp_k: Tensor,
    log_decay: Tensor | None,
    *,
    window: int,
    slot_bias: Tensor,
    slot_scale: Tensor | None = None,
    log_resp_q: Tensor | None = None,
    state: JointState | None = None,
    chunk: int = 64,
    max_decay: float | None = None,
) -> tuple[Tensor, JointState]:
    """The joint read of T tokens.

    Args:
        q_rot: [B, T, H, v]; k_rot, value: [B, T, G, v]; resp_k: [B, T, G, K], rows on the simplex.
        log_decay: [B, T, G, 1 or K], at most 0, or None.
        window: tokens that are read exactly; 0 writes a token first and reads slots only.
        slot_bias: [H, K]. slot_scale: [H], given for the adapted read and only then.
        log_resp_q: [B, T, H, K] log-responsibilities of the queries, for the static read only.
        max_decay: bound on |log_decay| of one token, see `_slot_chunk`.

    Returns:
        The output [B, T, H, v] and the state after the last token.
    """
    if (slot_scale is None) == (log_resp_q is None):
        raise ValueError("give slot_scale (adapted read) or log_resp_q (static read), one of them")
    batch, tokens, heads, width = q_rot.shape
    groups, components = resp_k.shape[2:]
    if state is None:
        state = empty_state(
            batch, groups, components, width, adapted=slot_scale is not None,
            decay_width=0 if log_decay is None else log_decay.shape[-1],
            dtype=q_rot.dtype, device=q_rot.device,
        )  # fmt: skip
    ring = state.ring_k.shape[1]
    k_all, v_all = _join(state.ring_k, k_rot), _join(state.ring_v, value)
    r_all = _join(state.ring_r, flush(resp_k))
    decay_all = _join(state.ring_decay, log_decay)
    stored = ring + tokens - min(window, ring + tokens)  # tokens that leave the ring
    slots = SlotState(state.mass, state.memory)
    q = _by_group(q_rot, groups)
    if window > 0 and tokens > 0:
        lse, out = window_read(
            q, k_all.transpose(1, 2), v_all.transpose(1, 2), window, ring=ring, chunk=chunk
        )
    if stored > 0 and tokens > 0:
        queries = tokens - stored  # queries before the first write find empty slots
        per_group = (groups, heads // groups)
        slot_lse, slot_out, slots = slot_read(
            q[..., queries:, :],
            k_all[:, :stored].transpose(1, 2),
            v_all[:, :stored].transpose(1, 2),
            r_all[:, :stored].transpose(1, 2),
            None if decay_all is None else decay_all[:, :stored].transpose(1, 2),
            slots,
            scale=None if slot_scale is None else slot_scale.view(per_group),
            bias=slot_bias.view(*per_group, components),
            log_resp_q=(
                None if log_resp_q is None else _by_group(log_resp_q, groups)[..., queries:, :]
            ),
            chunk=_slot_chunk(log_decay, chunk, max_decay),
        )
        if window > 0:
            late = merge_reads(lse[..., queries:], out[..., queries:, :], slot_lse, slot_out)
            out = torch.cat([out[..., :queries, :], late], dim=-2)
        else:
            out = slot_out
    elif window == 0 or tokens == 0:
        out = torch.zeros_like(q)
    new_state = JointState(
        slots.mass, slots.memory, k_all[:, stored:], v_all[:, stored:], r_all[:, stored:],
        None if decay_all is None else decay_all[:, stored:],
    )  # fmt: skip
    return out.permute(0, 3, 1, 2, 4).reshape(batch, tokens, heads, width), new_state
