"""The joint read, one token after the other: the oracle of `joint.joint_chunkwise`.

It follows docs/MATH.md 5.2 and 11.1 line by line and is slow on purpose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gma_torch.causal import SlotState, write_token
from gma_torch.joint import JointState, empty_state
from gma_torch.responsibilities import flush


def joint_recurrent(
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
) -> tuple[Tensor, JointState]:
    """Same arguments and results as `joint.joint_chunkwise`, token by token."""
    batch, tokens, heads, width = q_rot.shape
    groups, components = resp_k.shape[2:]
    adapted = slot_scale is not None
    if state is None:
        state = empty_state(
            batch, groups, components, width, adapted=adapted,
            decay_width=0 if log_decay is None else log_decay.shape[-1],
            dtype=q_rot.dtype, device=q_rot.device,
        )  # fmt: skip
    state = JointState(**vars(state))
    share = heads // groups
    resp_k = flush(resp_k)
    outputs = []
    for t in range(tokens):
        state.ring_k = torch.cat([state.ring_k, k_rot[:, t : t + 1]], 1)
        state.ring_v = torch.cat([state.ring_v, value[:, t : t + 1]], 1)
        state.ring_r = torch.cat([state.ring_r, resp_k[:, t : t + 1]], 1)
        if state.ring_decay is not None and log_decay is not None:
            state.ring_decay = torch.cat([state.ring_decay, log_decay[:, t : t + 1]], 1)
        if state.ring_k.shape[1] > window:  # token t - window leaves the ring and is written
            content = state.ring_v[:, 0]
            if adapted:
                content = torch.cat([content, state.ring_k[:, 0]], -1)
            gate = None if state.ring_decay is None else state.ring_decay[:, 0]
            slots = SlotState(state.mass, state.memory)
            slots = write_token(slots, state.ring_r[:, 0], content, gate)
            state.mass, state.memory = slots.mass, slots.memory
            state.ring_k, state.ring_v = state.ring_k[:, 1:], state.ring_v[:, 1:]
            state.ring_r = state.ring_r[:, 1:]
            if state.ring_decay is not None:
                state.ring_decay = state.ring_decay[:, 1:]
        q = q_rot[:, t].unflatten(1, (groups, share))  # [B, G, J, v]
        if adapted:
            address = q @ state.memory[..., width:].transpose(-1, -2)  # [B, G, J, K]
            slot = slot_scale.view(groups, share, 1) * address / math.sqrt(width)
        else:
            slot = log_resp_q[:, t].unflatten(1, (groups, share))
        slot = slot + slot_bias.view(groups, share, components)
        mass = state.mass.to(q.dtype).unsqueeze(2)
        slot = torch.where(mass > 0, slot + torch.log(mass), -math.inf)
        near = q @ state.ring_k.permute(0, 2, 3, 1) / math.sqrt(width)  # [B, G, J, n]
        weight = torch.softmax(torch.cat([slot, near], -1), -1)
        means = state.memory[..., :width]
        out = weight[..., :components] @ means
        out = out + weight[..., components:] @ state.ring_v.transpose(1, 2)
        outputs.append(out.reshape(batch, 1, heads, width))
    if not outputs:
        return torch.zeros_like(q_rot), state
    return torch.cat(outputs, 1), state
