// From the projections of a token to what memory and read work with.
#include <algorithm>
#include <cmath>
#include <vector>

#include "model/kernels/reference/mixer_parts.h"

namespace gma::reference {
namespace {

std::vector<double> Slice(const float* data, int64_t begin, int64_t count) {
  return std::vector<double>(data + begin, data + begin + count);
}

}  // namespace

RopeAngles::RopeAngles(int64_t position, double theta, int32_t head_dim)
    : cos(head_dim / 2), sin(head_dim / 2) {
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    const double angle = static_cast<double>(position) * std::pow(theta, -2.0 * i / head_dim);
    cos[i] = std::cos(angle);
    sin[i] = std::sin(angle);
  }
}

void Rotate(const RopeAngles& angles, double* x) {
  const size_t half = angles.cos.size();
  for (size_t i = 0; i < half; ++i) {
    const double low = x[i], high = x[i + half];
    x[i] = low * angles.cos[i] - high * angles.sin[i];
    x[i + half] = high * angles.cos[i] + low * angles.sin[i];
  }
}

std::vector<double> KeyRoute(const MixerConstants& constants, int32_t memory_head,
                             const double* key, int64_t position) {
  const int64_t v = constants.head_dim, r = constants.routing_dim;
  std::vector<double> plain(key, key + v), route(r);
  Rotate(RopeAngles(-position, constants.rope_theta, constants.head_dim), plain.data());
  for (int64_t m = 0; m < r; ++m) {
    const float* row = constants.key_route + (memory_head * r + m) * v;
    for (int64_t i = 0; i < v; ++i) route[m] += row[i] * plain[i];
  }
  return route;
}

void RmsNorm(const float* gain, double eps, int32_t count, double* x) {
  double square = 0;
  for (int32_t i = 0; i < count; ++i) square += x[i] * x[i];
  const double scale = 1.0 / std::sqrt(square / count + eps);
  for (int32_t i = 0; i < count; ++i) x[i] *= scale * gain[i];
}

std::vector<double> ShortConv(const MixerConstants& constants, const MixerState& state,
                              int64_t position, int32_t channel, const float* current,
                              int32_t count) {
  const int64_t history = constants.conv_width - 1;
  const int64_t routing = static_cast<int64_t>(constants.routing_dim) *
                          (constants.memory_heads + (constants.adapted ? 0 : constants.heads));
  const int64_t channels =
      routing + static_cast<int64_t>(constants.memory_heads) * constants.head_dim;
  std::vector<double> out(count);
  for (int32_t i = 0; i < count; ++i) {
    const float* weight = constants.conv_weight + (channel + i) * constants.conv_width;
    double sum = static_cast<double>(weight[history]) * current[i];
    for (int64_t age = 1; age <= std::min(history, position); ++age) {
      const int64_t entry = (position - age) % history;
      sum +=
          static_cast<double>(weight[history - age]) * state.conv[entry * channels + channel + i];
    }
    out[i] = sum;
    if (history > 0) state.conv[(position % history) * channels + channel + i] = current[i];
  }
  return out;
}

HeadToken PrepareToken(const MixerConstants& constants, const MixerInput& input,
                       const MixerState& state, const RopeAngles* angles, int32_t memory_head) {
  const int32_t share = constants.heads / constants.memory_heads;
  const int32_t v = constants.head_dim, r = constants.routing_dim;
  // Channels of the convolution: q routing of all heads, k routing, values.
  const int32_t route_q_begin = memory_head * share * r;
  const int32_t route_k_begin = (constants.adapted ? 0 : constants.heads * r) + memory_head * r;
  const int32_t value_begin =
      route_k_begin - memory_head * r + constants.memory_heads * r + memory_head * v;
  const auto convolve = [&](const float* data, int32_t channel, int32_t begin, int32_t count) {
    if (constants.conv_width == 0) return Slice(data, begin, count);
    return ShortConv(constants, state, input.position, channel, data + begin, count);
  };

  HeadToken token;
  if (!constants.adapted) {
    token.route_q = convolve(input.route_q, route_q_begin, route_q_begin, share * r);
  }
  if (constants.key_route == nullptr) {
    token.route_k = convolve(input.route_k, route_k_begin, memory_head * r, r);
  }
  token.value = convolve(input.value, value_begin, memory_head * v, v);
  if (constants.conv_width > 0) {
    for (double& x : token.value) x /= 1.0 + std::exp(-x);  // SiLU
  }
  if (constants.route_q_norm != nullptr && !constants.adapted) {
    for (int32_t j = 0; j < share; ++j) {
      RmsNorm(constants.route_q_norm, constants.norm_eps, r, token.route_q.data() + j * r);
    }
  }
  if (constants.route_k_norm != nullptr) {
    RmsNorm(constants.route_k_norm, constants.norm_eps, r, token.route_k.data());
  }
  if (input.q != nullptr) {
    token.q = Slice(input.q, memory_head * share * v, share * v);
    token.k = Slice(input.k, memory_head * v, v);
    for (int32_t j = 0; j < share; ++j) Rotate(*angles, token.q.data() + j * v);
    Rotate(*angles, token.k.data());
  }
  token.log_decay = constants.forget_head ? input.log_decay[memory_head] : 0.0;
  return token;
}

}  // namespace gma::reference
