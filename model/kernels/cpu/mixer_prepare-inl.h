// From a token's projections to what memory and read work with: short convolution, SiLU on the
// value, route_norm, rotation; and at the end out_norm and out_gate.
#if defined(GMA_MODEL_KERNELS_CPU_MIXER_PREPARE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_MIXER_PREPARE_INL_H_
#undef GMA_MODEL_KERNELS_CPU_MIXER_PREPARE_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_MIXER_PREPARE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "model/kernels/cpu/mixer_lanes-inl.h"
#include "model/kernels/cpu/mixer_plan.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

// x / (1 + exp(-x)); the exponential stays finite.
HWY_INLINE Wide Silu(const Wide& x) {
  const Wide floor = Max(x, Broadcast(-80));
  return Div(x, Add(Broadcast(1), Exp(Sub(Broadcast(0), floor))));
}

// x <- gain * x / sqrt(mean(x^2) + eps); x and gain padded with zeros.
HWY_INLINE void RmsNorm(const float* gain, float eps, size_t count, float* x) {
  Wide square = Broadcast(0);
  for (size_t i = 0; i < count; i += kWide) square = MulAdd(Load(x + i), Load(x + i), square);
  const float mean = SumOfLanes(square) / static_cast<float>(count);
  const Wide scale = Broadcast(1.0f / std::sqrt(mean + eps));
  for (size_t i = 0; i < count; i += kWide) {
    Store(Mul(Load(x + i), Mul(scale, Load(gain + i))), x + i);
  }
}

// Rotates the pairs (x_i, x_{i + v/2}). Plain products and sums, so no order to keep.
HWY_INLINE void Rotate(const float* HWY_RESTRICT x, const float* HWY_RESTRICT cos,
                       const float* HWY_RESTRICT sin, size_t width, float* HWY_RESTRICT y) {
  const size_t half = width / 2;
  for (size_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
  if (width % 2 != 0) y[width - 1] = x[width - 1];
}

// Depthwise causal convolution of `count` channels from `channel` on; the token enters the ring.
HWY_INLINE void ShortConv(const MixerPlan& plan, const MixerState& state, int64_t position,
                          size_t channel, const float* HWY_RESTRICT current, size_t count,
                          float* HWY_RESTRICT out) {
  const int64_t history = static_cast<int64_t>(plan.conv_width) - 1;
  const float* weight = plan.conv_weight.get() + channel;
  const float* HWY_RESTRICT now = weight + history * plan.conv_channels;
  for (size_t i = 0; i < count; ++i) out[i] = now[i] * current[i];
  if (history == 0) return;
  for (int64_t age = 1; age <= std::min(history, position); ++age) {
    const float* HWY_RESTRICT tap = weight + (history - age) * plan.conv_channels;
    const float* HWY_RESTRICT past =
        state.conv + (position - age) % history * plan.conv_channels + channel;
    for (size_t i = 0; i < count; ++i) out[i] += tap[i] * past[i];
  }
  std::memcpy(state.conv + position % history * plan.conv_channels + channel, current,
              count * sizeof(float));
}

// slot_horizon: turns the keys of slots that are too old (mixer_step.h, kHorizonStep).
HWY_INLINE void MoveOldSlots(const MixerPlan& plan, const MixerState& state, int64_t position,
                             size_t g) {
  if (state.slot_position == nullptr || position % kHorizonStep != 0) return;
  const size_t half = plan.width / 2;
  for (size_t k = 0; k < plan.components; ++k) {
    const size_t slot = g * plan.components + k;
    double& at = state.slot_position[slot];
    const double age = static_cast<double>(position) - at;
    if (state.mass[slot] == 0 || age <= static_cast<double>(plan.slot_horizon)) continue;
    at += static_cast<double>(kHorizonStep);
    const size_t begin = slot * plan.memory_dim + plan.width;
    float* key = state.memory + begin;
    float* rest = state.compensation == nullptr ? nullptr : state.compensation + begin;
    const auto keep = [&](size_t i, double exact) HWY_ATTR {
      key[i] = static_cast<float>(exact);
      if (rest != nullptr) rest[i] = static_cast<float>(exact - key[i]);
    };
    for (size_t i = 0; i < half; ++i) {
      const double low = rest == nullptr ? key[i] : static_cast<double>(key[i]) + rest[i];
      const double high =
          rest == nullptr ? key[i + half] : static_cast<double>(key[i + half]) + rest[i + half];
      keep(i, low * plan.step_cos[i] - high * plan.step_sin[i]);
      keep(i + half, high * plan.step_cos[i] + low * plan.step_sin[i]);
    }
  }
}

// route [r] <- of the rotated key that is written when `token` is read (key_route.h). turned: [v],
// scratch.
HWY_INLINE void KeyRoute(const MixerPlan& plan, const MixerTokens& tokens, int64_t token, size_t g,
                         const float* HWY_RESTRICT key, float* HWY_RESTRICT turned, float* route) {
  const size_t v = plan.width, half = v / 2, r = plan.routing_padded;
  const float* HWY_RESTRICT cos = tokens.rope_cos + token * static_cast<int64_t>(half);
  const float* HWY_RESTRICT sin = tokens.rope_sin + token * static_cast<int64_t>(half);
  for (size_t i = 0; i < half; ++i) {
    turned[i] = key[i] * cos[i] + key[i + half] * sin[i];
    turned[i + half] = key[i + half] * cos[i] - key[i] * sin[i];
  }
  const float* rows = plan.key_route.get() + g * v * r;
  for (size_t m = 0; m < r; m += kWide) {
    Wide sum = Broadcast(0);
    for (size_t i = 0; i < v; ++i) sum = MulAdd(Broadcast(turned[i]), Load(rows + i * r + m), sum);
    Store(sum, route + m);
  }
}

// The parts of token `token` for memory head g, into route_q, route_k, value, query and key of
// `scratch`.
HWY_INLINE void PrepareToken(const MixerPlan& plan, const MixerTokens& tokens, int64_t token,
                             const MixerState& state, size_t g, const MixerScratch& scratch) {
  const size_t share = plan.share, r = plan.routing, v = plan.width;
  const int64_t position = tokens.position + token;
  const float* projected = tokens.projected + token * tokens.stride;
  // Channels of the convolution: q routing of all heads, k routing, values.
  const size_t route_k_begin = plan.adapted ? 0 : plan.heads * r;
  const auto take = [&](const float* from, size_t channel, size_t count, float* to) HWY_ATTR {
    if (plan.conv_width > 0) {
      ShortConv(plan, state, position, channel, from, count, to);
    } else {
      std::memcpy(to, from, count * sizeof(float));
    }
  };
  if (!plan.adapted) {
    for (size_t j = 0; j < share; ++j) {
      const size_t channel = (g * share + j) * r;
      float* route_q = scratch.route_q + j * plan.routing_padded;
      take(projected + tokens.route_q + channel, channel, r, route_q);
      if (plan.route_q_norm) RmsNorm(plan.route_q_norm.get(), plan.norm_eps, r, route_q);
    }
  }
  if (!plan.key_route) {
    take(projected + tokens.route_k + g * r, route_k_begin + g * r, r, scratch.route_k);
  }
  if (plan.route_k_norm) RmsNorm(plan.route_k_norm.get(), plan.norm_eps, r, scratch.route_k);
  take(projected + tokens.value + g * v, route_k_begin + plan.memory_heads * r + g * v, v,
       scratch.value);
  if (plan.conv_width > 0) {
    for (size_t i = 0; i < v; i += kWide) {
      Store(Silu(Load(scratch.value + i)), scratch.value + i);
    }
  }
  if (!plan.adapted && plan.window == 0) return;
  const float* cos = tokens.rope_cos + token * static_cast<int64_t>(v / 2);
  const float* sin = tokens.rope_sin + token * static_cast<int64_t>(v / 2);
  for (size_t j = 0; j < share; ++j) {
    Rotate(projected + tokens.q + (g * share + j) * v, cos, sin, v,
           scratch.query + j * plan.width_padded);
  }
  Rotate(projected + tokens.k + g * v, cos, sin, v, scratch.key);
}

// Divides the weighted sum of query head j by its weights (no weight: 0), then out_norm, out_gate.
// gate: [v] or null.
HWY_INLINE void FinishHead(const MixerPlan& plan, float weight_sum, const float* gate, float* sum,
                           float* out) {
  const size_t v = plan.width;
  const Wide scale = Broadcast(weight_sum == 0 ? 0 : 1.0f / weight_sum);
  for (size_t i = 0; i < v; i += kWide) Store(Mul(Load(sum + i), scale), sum + i);
  if (plan.out_norm) RmsNorm(plan.out_norm.get(), plan.norm_eps, v, sum);
  size_t i = 0;
  for (; i + kWide <= v; i += kWide) {
    const Wide x = Load(sum + i);
    Store(gate == nullptr ? x : Mul(x, Silu(Load(gate + i))), out + i);
  }
  if (i < v) {
    const Wide x = Load(sum + i);
    StoreFirst(gate == nullptr ? x : Mul(x, Silu(LoadFirst(gate + i, v - i))), out + i, v - i);
  }
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_PREPARE_INL_H_
