"""The joint read: a window of recent tokens and the memory slots in one softmax (MATH.md 11.1).

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

from gma_torch.causal import SlotState
from gma_torch.joint_slots import slot_chunk, slot_read
from gma_torch.responsibilities import flush


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
        max_decay: bound on |log_decay| of one token, see `joint_slots.slot_chunk`.

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
            chunk=slot_chunk(log_decay, chunk, max_decay),
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
