"""The causal GMA mixer of one layer, with every option of the model (docs/MATH.md 5, 11, 11.1).

Order: project, short convolution (then SiLU on the value alone), route_norm, scores, forget,
write, read, out_norm, out_gate, o_proj.

Shapes: B sequences, T tokens, d model width, H query heads, G memory heads, K components,
r = routing width, v = head width. With a window, token t - w is written into the slots, then token
t enters the window, then the read; its forget gate travels with it. Without one, a token is
written, then read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gma_torch.causal import SlotState, causal_chunkwise, log_mass, read_slots, write_token
from gma_torch.config import GmaConfig
from gma_torch.joint import JointState, joint_chunkwise
from gma_torch.layers import RmsNorm, short_convolution
from gma_torch.responsibilities import (
    log_responsibilities,
    matrix_scores,
    score_matrix,
    variance,
    write_responsibilities,
)
from gma_torch.rope import rope_table, turn

# With slot_horizon L, before a token whose position is a multiple of this, the keys of slots whose
# mean position is more than L behind it are turned by as many positions (docs/MATH.md 11.1).
HORIZON_STEP = 64


@dataclass
class MixerState:
    """A layer's part of the state row; None where the options leave a block out.

    Attributes:
        mass: [B, G, K] float64.
        slot_position: [B, G, K] float64, mean position of a slot's tokens; only with slot_horizon.
        memory: [B, G, K, v] value means; [B, G, K, 2v] with the adapted read: values, then keys.
        conv: [B, w - 1, C] last raw projections, oldest first; zeros before the first token.
        window_key, window_value: [B, n, G, v], the n <= w newest tokens, oldest first; rotated.
        window_route: [B, n, G, r], routing vectors after convolution and norm; None with route
            "key".
        window_log_decay: [B, n, G], only with forget "head".
    """

    mass: Tensor
    memory: Tensor
    conv: Tensor | None = None
    window_key: Tensor | None = None
    window_value: Tensor | None = None
    window_route: Tensor | None = None
    window_log_decay: Tensor | None = None
    slot_position: Tensor | None = None


@dataclass
class _Projected:
    """What the projections of T tokens give, in the type of the recurrence.

    route_q [B, T, H, r] or None, route_k [B, T, G, r], value [B, T, G, v], q [B, T, H, v] and
    k [B, T, G, v] rotated or None, log_decay [B, T, G] for forget "head" or None, conv history.
    position: of the first token.
    """

    route_q: Tensor | None
    route_k: Tensor
    value: Tensor
    q: Tensor | None
    k: Tensor | None
    log_decay: Tensor | None
    conv: Tensor | None
    position: int

    def cut(self, begin: int, end: int) -> _Projected:
        """Tokens begin..end; `conv` stays that after the last of all."""
        parts = {
            item.name: value[:, begin:end]
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor) and item.name != "conv"
        }
        return replace(self, position=self.position + begin, **parts)


class GmaMixer(nn.Module):
    """Causal GMA of one layer; parameters carry the names of the model directory."""

    def __init__(self, config: GmaConfig, layer: int) -> None:
        super().__init__()
        self.options = options = config.layers[layer]
        self.heads, self.groups = config.num_attention_heads, config.num_memory_heads
        self.components, self.routing_dim = config.num_components, config.routing_dim
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta
        self.slot_horizon = config.slot_horizon if options.read == "adapted" else None
        width, eps = config.hidden_size, config.rms_norm_eps
        heads, groups, r, v = self.heads, self.groups, self.routing_dim, self.head_dim
        self.has_route_q = options.read == "static"
        if self.has_route_q:
            self.route_q_proj = nn.Linear(width, heads * r, bias=False)
        self.has_route_k = options.route == "projected"
        if self.has_route_k:
            self.route_k_proj = nn.Linear(width, groups * r, bias=False)
        else:
            self.route = nn.Parameter(torch.zeros(groups, r, v))
        self.v_proj = nn.Linear(width, groups * v, bias=False)
        self.o_proj = nn.Linear(heads * v, width, bias=False)
        self.component_mean = nn.Parameter(torch.zeros(groups, self.components, r))
        self.component_omega = nn.Parameter(torch.zeros(groups, self.components, r))
        self.prior_logits = nn.Parameter(torch.zeros(groups, self.components))
        if options.joint:
            self.q_proj = nn.Linear(width, heads * v, bias=False)
            self.k_proj = nn.Linear(width, groups * v, bias=False)
            self.slot_bias = nn.Parameter(torch.zeros(heads, self.components))
        if options.read == "adapted":
            self.slot_scale = nn.Parameter(torch.ones(heads))
        self.conv_channels = (heads * r if self.has_route_q else 0) + groups * (r + v)
        if options.short_conv:
            self.conv_weight = nn.Parameter(torch.zeros(self.conv_channels, options.short_conv))
        if options.forget == "head":
            self.forget_proj = nn.Linear(width, groups, bias=False)
            self.forget_bias = nn.Parameter(torch.zeros(groups))
            self.forget_a_log = nn.Parameter(torch.zeros(groups))
        if options.forget == "write":
            self.forget_beta = nn.Parameter(torch.zeros(groups))
        if options.route_norm:
            if self.has_route_q:
                self.route_q_norm = RmsNorm(r, eps)
            self.route_k_norm = RmsNorm(r, eps)
        if options.out_norm:
            self.out_norm = RmsNorm(v, eps)
        if options.out_gate:
            self.gate_proj = nn.Linear(width, heads * v, bias=False)

    def initial_state(
        self, batch: int, dtype: torch.dtype, device: torch.device | str
    ) -> MixerState:
        """The state before the first token; `dtype` of everything but the masses."""
        options, groups, v = self.options, self.groups, self.head_dim

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        memory_width = 2 * v if options.read == "adapted" else v
        state = MixerState(
            zeros(groups, self.components).double(),
            zeros(groups, self.components, memory_width),
        )
        if self.slot_horizon is not None:
            state.slot_position = zeros(groups, self.components).double()
        if options.short_conv:
            state.conv = zeros(options.short_conv - 1, self.conv_channels)
        if options.window:
            state.window_key = zeros(0, groups, v)
            state.window_value = zeros(0, groups, v)
            if self.has_route_k:
                state.window_route = zeros(0, groups, self.routing_dim)
            if options.forget == "head":
                state.window_log_decay = zeros(0, groups)
        return state

    def forward(
        self, x: Tensor, state: MixerState | None = None, position: int = 0
    ) -> tuple[Tensor, MixerState]:
        """T tokens by chunks; differentiable.

        Args:
            x: [B, T, d], normed layer input of the tokens at position, position + 1, ...
            state: after the tokens before; None is the start.

        Returns:
            [B, T, d] and the state after the last token.
        """
        state = state or self.initial_state(x.shape[0], _core_dtype(x), x.device)
        projected = self._project(x, state.conv, position)
        with torch.autocast(x.device.type, enabled=False):
            out, state = self._read_pieces(projected, state)
        return self._finish(out, x), state

    def step(self, x: Tensor, state: MixerState, position: int) -> tuple[Tensor, MixerState]:
        """One token [B, d] by the recurrence; returns [B, d] and the next state."""
        x = x.unsqueeze(1)
        projected = self._project(x, state.conv, position)
        state = self._move_old_slots(state, position)
        out, state = self._read_recurrent(projected, state)
        return self._finish(out.unsqueeze(1), x).squeeze(1), state

    def write_scores(self, route_k: Tensor) -> Tensor:
        """Mixture scores [B, T, G, K] of routing vectors [B, T, G, r] (docs/MATH.md 2)."""
        return matrix_scores(route_k.unsqueeze(3), *self._score_matrix(route_k.dtype)).squeeze(3)

    def read_scores(self, route_q: Tensor) -> Tensor:
        """Mixture scores [B, T, H, K] of routing vectors [B, T, H, r]."""
        grouped = route_q.unflatten(2, (self.groups, -1))
        return matrix_scores(grouped, *self._score_matrix(route_q.dtype)).flatten(2, 3)

    def responsibilities(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """What tokens [B, T, d] from the start of a text belong to (docs/MATH.md 14).

        Returns:
            Of the queries [B, T, H, K], None with the adapted read (it has no query routing), and
            of the keys [B, T, G, K].
        """
        history = self.initial_state(x.shape[0], _core_dtype(x), x.device).conv
        projected = self._project(x, history, 0)
        keys = write_responsibilities(self.write_scores(projected.route_k))
        if projected.route_q is None:
            return None, keys
        return torch.softmax(self.read_scores(projected.route_q), dim=-1), keys

    def _score_matrix(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        var = variance(self.component_omega.to(dtype), self.options.var_param)
        return score_matrix(self.component_mean.to(dtype), var, self.prior_logits.to(dtype))

    def _project(self, x: Tensor, history: Tensor | None, position: int) -> _Projected:
        core, options = _core_dtype(x), self.options
        parts = [self.route_q_proj(x)] if self.has_route_q else []
        parts += [self.route_k_proj(x)] if self.has_route_k else []
        parts += [self.v_proj(x)]
        raw = torch.cat(parts, dim=-1).to(core)
        if options.short_conv:
            raw, history = short_convolution(raw, self.conv_weight.to(core), history)
        route_q, route_k, value = raw.split(
            [
                self.heads * self.routing_dim if self.has_route_q else 0,
                self.groups * self.routing_dim if self.has_route_k else 0,
                self.groups * self.head_dim,
            ],
            dim=-1,
        )
        if options.short_conv:
            value = F.silu(value)
        if self.has_route_k:
            route_k = route_k.unflatten(-1, (self.groups, -1))
            route_k = self.route_k_norm(route_k) if options.route_norm else route_k
        if self.has_route_q:
            route_q = route_q.unflatten(-1, (self.heads, -1))
            route_q = self.route_q_norm(route_q) if options.route_norm else route_q
        q = k = log_decay = None
        if options.joint:
            q = self.q_proj(x).to(core).unflatten(-1, (self.heads, -1))
            k = self.k_proj(x).to(core).unflatten(-1, (self.groups, -1))
            route_k = route_k if self.has_route_k else self._route_of(k)
            table = rope_table(position, x.shape[1], self.head_dim, self.rope_theta, core, x.device)
            q, k = turn(q, *table), turn(k, *table)
        if options.forget == "head":
            rate = F.softplus(self.forget_proj(x).to(core) + self.forget_bias.to(core))
            log_decay = -torch.exp(self.forget_a_log.to(core)) * rate
        return _Projected(
            route_q=route_q if self.has_route_q else None,
            route_k=route_k,
            value=value.unflatten(-1, (self.groups, -1)),
            q=q,
            k=k,
            log_decay=log_decay,
            conv=history,
            position=position,
        )

    def _route_of(self, key: Tensor) -> Tensor:
        """Routing vectors [B, T, G, r] of keys [B, T, G, v] before rotation: route "key"."""
        return torch.einsum("btgv,grv->btgr", key, self.route.to(key.dtype))

    def _window_route(self, state: MixerState, position: int) -> Tensor:
        """Routing vectors [B, n, G, r] of the window's tokens, which end before `position`."""
        if self.has_route_k:
            return state.window_route
        key = state.window_key
        first = position - key.shape[1]
        cos, sin = rope_table(
            first, key.shape[1], self.head_dim, self.rope_theta, key.dtype, key.device
        )
        return self._route_of(turn(key, cos, -sin))

    def _finish(self, out: Tensor, x: Tensor) -> Tensor:
        """out [B, T, H, v], x [B, T, d] -> [B, T, d]."""
        if self.options.out_norm:
            out = self.out_norm(out)
        out = out.flatten(2).to(x.dtype)
        if self.options.out_gate:
            out = out * F.silu(self.gate_proj(x))
        return self.o_proj(out)

    def _decay(self, log_decay: Tensor | None, resp_k: Tensor) -> Tensor | None:
        """Log gates [B, T, G, 1 or K] of tokens with responsibilities [B, T, G, K] (MATH.md 11)."""
        if self.options.forget == "head":
            return log_decay.unsqueeze(-1)
        if self.options.forget == "write":
            return -F.softplus(self.forget_beta.to(resp_k.dtype)).unsqueeze(-1) * resp_k
        return None

    def _move_old_slots(self, state: MixerState, position: int) -> MixerState:
        """slot_horizon: turns the keys of slots that are too old, before token `position`."""
        if self.slot_horizon is None or position % HORIZON_STEP:
            return state
        old = (state.mass > 0) & (position - state.slot_position > self.slot_horizon)
        value, key = state.memory.chunk(2, dim=-1)
        table = rope_table(HORIZON_STEP, 1, self.head_dim, self.rope_theta, key.dtype, key.device)
        key = torch.where(old.unsqueeze(-1), turn(key, *table), key)
        return replace(
            state,
            memory=torch.cat([value, key], dim=-1),
            slot_position=state.slot_position + HORIZON_STEP * old,
        )

    def _read_pieces(self, projected: _Projected, state: MixerState) -> tuple[Tensor, MixerState]:
        """As `_read_chunkwise`, in pieces between which slots may move."""
        tokens, first = projected.value.shape[1], projected.position
        if self.slot_horizon is None or first + tokens <= self.slot_horizon:
            return self._read_chunkwise(projected, state)
        out, begin = [], 0
        while begin < tokens:
            position = first + begin
            state = self._move_old_slots(state, position)
            end = min(tokens, begin + HORIZON_STEP - position % HORIZON_STEP)
            piece, state = self._read_chunkwise(projected.cut(begin, end), state)
            out.append(piece)
            begin = end
        return torch.cat(out, dim=1), state

    def _slot_positions(
        self, state: MixerState, before: JointState, projected: _Projected, resp_k: Tensor,
        decay: Tensor | None, stored: int,
    ) -> Tensor:  # fmt: skip
        """Mean positions [B, G, K] after the first `stored` of ring and new tokens are written."""
        resp = torch.cat([before.ring_r, resp_k], dim=1)[:, :stored].double()
        at = projected.position - before.ring_r.shape[1] + torch.arange(stored, device=resp.device)
        weight, old = resp, state.mass
        if decay is not None:
            gate = torch.cat([before.ring_decay, decay], dim=1)[:, :stored].double()
            left = gate.flip(1).cumsum(1).flip(1)  # of this token and those after it
            weight, old = torch.exp(left - gate) * resp, torch.exp(left[:, :1].sum(1)) * state.mass
        mass = old + weight.sum(1)
        total = old * state.slot_position + (weight * at.view(-1, 1, 1)).sum(1)
        return torch.where(mass > 0, total / mass.clamp_min(1e-300), state.slot_position)

    def _read_chunkwise(
        self, projected: _Projected, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """Output [B, T, H, v] and the state after T tokens."""
        options = self.options
        resp_k = write_responsibilities(self.write_scores(projected.route_k))
        decay = self._decay(projected.log_decay, resp_k)
        slots = SlotState(state.mass, state.memory)
        if not options.joint:
            score_q = self.read_scores(projected.route_q)
            out, slots = causal_chunkwise(score_q, resp_k, projected.value, decay, slots)
            return out, MixerState(slots.mass, slots.memory, projected.conv)
        adapted = options.read == "adapted"
        max_decay = None
        if options.forget == "write":
            max_decay = float(F.softplus(self.forget_beta.detach()).max())
        before = self._joint_state(state, projected)
        out, joint = joint_chunkwise(
            projected.q,
            projected.k,
            projected.value,
            resp_k,
            decay,
            window=options.window,
            slot_bias=self.slot_bias.to(resp_k.dtype),
            slot_scale=self.slot_scale.to(resp_k.dtype) if adapted else None,
            log_resp_q=(
                None if adapted else log_responsibilities(self.read_scores(projected.route_q))
            ),
            state=before,
            max_decay=max_decay,
        )
        after = MixerState(joint.mass, joint.memory, projected.conv)
        if self.slot_horizon is not None:
            stored = before.ring_k.shape[1] + resp_k.shape[1] - joint.ring_k.shape[1]
            after.slot_position = self._slot_positions(
                state, before, projected, resp_k, decay, stored
            )
        if options.window:
            kept = joint.ring_k.shape[1]
            after.window_key, after.window_value = joint.ring_k, joint.ring_v
            if self.has_route_k:
                after.window_route = _newest(state.window_route, projected.route_k, kept)
            if options.forget == "head":
                after.window_log_decay = _newest(state.window_log_decay, projected.log_decay, kept)
        return out, after

    def _joint_state(self, state: MixerState, projected: _Projected) -> JointState:
        """The same state with responsibilities and gates in place of routing vectors."""
        if not self.options.window:
            empty = projected.k[:, :0]
            none = projected.k.new_zeros(*empty.shape[:3], self.components)
            decay = self._decay(None if projected.log_decay is None else empty[..., 0], none)
            return JointState(state.mass, state.memory, empty, empty, none, decay)
        routes = self._window_route(state, projected.position)
        resp = write_responsibilities(self.write_scores(routes))
        decay = self._decay(state.window_log_decay, resp)
        return JointState(
            state.mass, state.memory, state.window_key, state.window_value, resp, decay
        )

    def _read_recurrent(
        self, projected: _Projected, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """Output [B, H, v] and the state after one token (docs/MATH.md 5.2, 11.1)."""
        window = self.options.window
        state = replace(state, conv=projected.conv)
        if not window:
            state = self._write(
                state, projected, projected.route_k, projected.value, projected.k,
                projected.log_decay,
            )  # fmt: skip
            if self.options.read == "static":
                scores = self.read_scores(projected.route_q)[:, 0]
                return read_slots(SlotState(state.mass, state.memory), scores), state
            return self._read_joint(projected, state), state
        if state.window_key.shape[1] == window:
            state = self._write(
                state,
                projected,
                self._window_route(state, projected.position)[:, :1],
                state.window_value[:, :1],
                state.window_key[:, :1],
                None if state.window_log_decay is None else state.window_log_decay[:, :1],
            )
        kept = min(window, state.window_key.shape[1] + 1)
        state.window_key = _newest(state.window_key, projected.k, kept)
        state.window_value = _newest(state.window_value, projected.value, kept)
        if self.has_route_k:
            state.window_route = _newest(state.window_route, projected.route_k, kept)
        if state.window_log_decay is not None:
            state.window_log_decay = _newest(state.window_log_decay, projected.log_decay, kept)
        return self._read_joint(projected, state), state

    def _write(
        self,
        state: MixerState,
        reader: _Projected,
        route_k: Tensor,
        value: Tensor,
        key: Tensor | None,
        log_decay: Tensor | None,
    ) -> MixerState:
        """Writes one token: route_k [B, 1, G, r], value and key [B, 1, G, v], decay [B, 1, G].

        reader: the token that is read now.
        """
        resp = write_responsibilities(self.write_scores(route_k))
        decay = self._decay(log_decay, resp)
        content = torch.cat([value, key], dim=-1) if self.options.read == "adapted" else value
        slots = write_token(
            SlotState(state.mass, state.memory),
            resp[:, 0],
            content[:, 0],
            None if decay is None else decay[:, 0],
        )
        position = state.slot_position
        if position is not None:
            share = torch.where(slots.mass > 0, resp[:, 0].double() / slots.mass, 0.0)
            position = position + share * (reader.position - self.options.window - position)
        return replace(state, mass=slots.mass, memory=slots.memory, slot_position=position)

    def _read_joint(self, projected: _Projected, state: MixerState) -> Tensor:
        """One softmax over slots and window for one token (MATH.md 11.1); returns [B, H, v]."""
        v = self.head_dim
        q = projected.q[:, 0].unflatten(1, (self.groups, -1))  # [B, G, J, v]
        if self.options.read == "adapted":
            scale = self.slot_scale.to(q.dtype).view(self.groups, -1, 1) / math.sqrt(v)
            logits = scale * (q @ state.memory[..., v:].transpose(-1, -2))
        else:
            log_resp = log_responsibilities(self.read_scores(projected.route_q)[:, 0])
            logits = log_resp.unflatten(1, (self.groups, -1))
        bias = self.slot_bias.to(q.dtype).view(self.groups, -1, self.components)
        logits = logits + bias + log_mass(state.mass, q.dtype).unsqueeze(2)
        values = state.memory[..., :v]
        if self.options.window:
            keys = state.window_key.permute(0, 2, 3, 1)  # [B, G, v, n]
            logits = torch.cat([logits, q @ keys / math.sqrt(v)], dim=-1)
            values = torch.cat([values, state.window_value.transpose(1, 2)], dim=2)
        return (torch.softmax(logits, dim=-1) @ values).flatten(1, 2)


def _core_dtype(x: Tensor) -> torch.dtype:
    """The recurrence runs in float32, or in float64 for a float64 model."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _newest(ring: Tensor, new: Tensor, kept: int) -> Tensor:
    """The `kept` newest rows of ring [B, n, ...] followed by new [B, T, ...]."""
    joined = torch.cat([ring, new], dim=1)
    return joined[:, joined.shape[1] - kept :]
